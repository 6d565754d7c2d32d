//go:build tools

// Package tools names the program that the tests build, so that go.sum covers it.
package tools

import (
	_ "github.com/checkpoint-restore/checkpointctl"
)
