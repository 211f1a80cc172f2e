// SPDX-License-Identifier: Apache-2.0
//
// dispatch measures how long a task waits between being handed to the Go
// scheduler (`go f()`) and starting to run: the peer of Weir's worker pool.
//
//	go run ./dispatch -tasks 100000 -procs 2 -work 1000
//
// Each task spins for -work ns. Prints one line per run: p50, p99, mean wait
// and the wall time per task. -batch tasks are outstanding at a time, so that
// the wait is the scheduler's and not only the backlog's (0: all at once).
package main

import (
	"flag"
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"
)

func spin(d time.Duration) {
	for t := time.Now(); time.Since(t) < d; {
	}
}

func main() {
	tasks := flag.Int("tasks", 100000, "how many tasks")
	procs := flag.Int("procs", runtime.NumCPU(), "GOMAXPROCS")
	work := flag.Duration("work", 0, "spin per task")
	batch := flag.Int("batch", 0, "outstanding tasks at a time; 0: all")
	runs := flag.Int("runs", 5, "runs")
	flag.Parse()
	runtime.GOMAXPROCS(*procs)
	for r := 0; r < *runs; r++ {
		waits := make([]time.Duration, *tasks)
		var wg sync.WaitGroup
		var gate chan struct{}
		if *batch > 0 {
			gate = make(chan struct{}, *batch)
		}
		start := time.Now()
		for i := 0; i < *tasks; i++ {
			if gate != nil {
				gate <- struct{}{}
			}
			wg.Add(1)
			submitted := time.Now()
			go func(i int) {
				waits[i] = time.Since(submitted)
				if *work > 0 {
					spin(*work)
				}
				if gate != nil {
					<-gate
				}
				wg.Done()
			}(i)
		}
		wg.Wait()
		wall := time.Since(start)
		sort.Slice(waits, func(a, b int) bool { return waits[a] < waits[b] })
		var sum time.Duration
		for _, w := range waits {
			sum += w
		}
		fmt.Printf("go procs=%d tasks=%d batch=%d p50_us=%.2f p99_us=%.2f mean_us=%.2f wall_ns_per_task=%.1f\n",
			*procs, *tasks, *batch,
			float64(waits[len(waits)/2].Nanoseconds())/1e3,
			float64(waits[len(waits)*99/100].Nanoseconds())/1e3,
			float64(sum.Nanoseconds())/float64(len(waits))/1e3,
			float64(wall.Nanoseconds())/float64(*tasks))
	}
}
