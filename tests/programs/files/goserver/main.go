// An HTTP server as Go programs are: the standard library, goroutines, timers, no flags.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func primes(n int) int {
	composite := make([]bool, n+1)
	count := 0
	for i := 2; i <= n; i++ {
		if composite[i] {
			continue
		}
		count++
		for j := i * i; j <= n; j += i {
			composite[j] = true
		}
	}
	return count
}

func main() {
	var hits, ticks atomic.Int64
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			ticks.Add(1)
		}
	}()
	for i := 0; i < 1000; i++ {
		go func() { select {} }()
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		fmt.Println("ending")
		os.Exit(3)
	}()
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		before := ticks.Load()
		time.Sleep(60 * time.Millisecond)
		fmt.Println("hit")
		json.NewEncoder(w).Encode(map[string]any{
			"hits": hits.Add(1), "primes": primes(100000), "ticking": ticks.Load() > before,
		})
	})
	http.HandleFunc("/ping", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pong") })
	fmt.Println("ready")
	panic(http.ListenAndServe(":8080", nil))
}
