// SPDX-License-Identifier: Apache-2.0
//
// infer is the dispatch service that teams write first: net/http, a min-heap
// priority queue under a mutex, and a batcher that closes on size or time. The
// model is a stand-in that costs -model per batch plus -item per member, so
// that what is measured is the service around it. The peer of Weir's /infer.
//
//	go run ./infer -addr 127.0.0.1:8090
//	curl -d '{"model":"m","prompt":"hi"}' http://127.0.0.1:8090/infer
package main

import (
	"container/heap"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"sync"
	"time"
)

type request struct {
	Model    string `json:"model"`
	Prompt   string `json:"prompt"`
	Priority int    `json:"priority"`
}

type response struct {
	Result string `json:"result"`
}

type item struct {
	req  request
	done chan string
	seq  int
}

type minHeap []*item

func (h minHeap) Len() int { return len(h) }
func (h minHeap) Less(i, j int) bool {
	if h[i].req.Priority != h[j].req.Priority {
		return h[i].req.Priority < h[j].req.Priority
	}
	return h[i].seq < h[j].seq
}
func (h minHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *minHeap) Push(x any)   { *h = append(*h, x.(*item)) }
func (h *minHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

type batcher struct {
	mu    sync.Mutex
	queue minHeap
	seq   int
	wake  chan struct{}
}

func (b *batcher) submit(r request) string {
	it := &item{req: r, done: make(chan string, 1)}
	b.mu.Lock()
	b.seq++
	it.seq = b.seq
	heap.Push(&b.queue, it)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return <-it.done
}

func (b *batcher) run(size int, window, model, perItem time.Duration) {
	for range b.wake {
		for {
			b.mu.Lock()
			n := b.queue.Len()
			b.mu.Unlock()
			if n == 0 {
				break
			}
			if n < size && window > 0 {
				time.Sleep(window)
			}
			b.mu.Lock()
			batch := make([]*item, 0, size)
			for len(batch) < size && b.queue.Len() > 0 {
				batch = append(batch, heap.Pop(&b.queue).(*item))
			}
			b.mu.Unlock()
			if cost := model + perItem*time.Duration(len(batch)); cost > 0 {
				for t := time.Now(); time.Since(t) < cost; {
				}
			}
			for _, it := range batch {
				it.done <- "Response from " + it.req.Model
			}
		}
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8090", "listen address")
	size := flag.Int("max-batch", 32, "max batch size")
	window := flag.Duration("window", 0, "batch window")
	model := flag.Duration("model", 0, "cost per batch")
	perItem := flag.Duration("item", 0, "cost per member")
	flag.Parse()
	b := &batcher{wake: make(chan struct{}, 1)}
	go b.run(*size, *window, *model, *perItem)
	http.HandleFunc("/infer", func(w http.ResponseWriter, r *http.Request) {
		var req request
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, "Invalid JSON", http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(response{Result: b.submit(req)})
	})
	log.Fatal(http.ListenAndServe(*addr, nil))
}
