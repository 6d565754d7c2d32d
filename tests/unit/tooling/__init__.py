"""Tests of deploy/'s scripts and of the test node's parts that need no node."""
