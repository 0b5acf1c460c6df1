// Command reputation is a small reputation service, to try one with and to read (docs/reputation.md): it answers how it rates an
// agent, from 0 to 1000, and an operator of it sets that. It keeps everything in memory and asks nobody who they are: do not run it
// where others reach it.
//
//	go run ./examples/reputation -listen 127.0.0.1:7800 did:mesh:ann=850 did:mesh:bob=420
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7800", "host:port")
	flag.Parse()
	s := &service{scores: map[string]int{}}
	for _, arg := range flag.Args() {
		did, score, _ := strings.Cut(arg, "=")
		if err := s.set(did, score); err != nil {
			fmt.Fprintln(os.Stderr, "reputation:", err)
			os.Exit(2)
		}
	}
	fmt.Printf("reputation service on http://%s\n", *listen)
	server := &http.Server{Addr: *listen, Handler: s.handler(), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "reputation:", err)
		os.Exit(1)
	}
}

// A service knows agents' scores.
type service struct {
	mu     sync.Mutex
	scores map[string]int
}

// tier is a score in a word (SPEC §9).
func tier(score int) string {
	switch {
	case score >= 900:
		return "verified_partner"
	case score >= 700:
		return "trusted"
	case score >= 500:
		return "standard"
	case score >= 300:
		return "probationary"
	}
	return "untrusted"
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /agents/{did}/score", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		score, known := s.scores[r.PathValue("did")]
		s.mu.Unlock()
		if !known {
			http.Error(w, "no such agent", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"agent": r.PathValue("did"), "score": score, "tier": tier(score)})
	})
	mux.HandleFunc("PUT /agents/{did}/score/{score}", func(w http.ResponseWriter, r *http.Request) {
		if err := s.set(r.PathValue("did"), r.PathValue("score")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	return mux
}

// set says how an agent is rated from now on.
func (s *service) set(did, text string) error {
	score, err := strconv.Atoi(text)
	if err != nil || score < 0 || score > 1000 || !strings.HasPrefix(did, "did:") {
		return fmt.Errorf("want DID=SCORE such as did:mesh:ann=850, from 0 to 1000; got %s=%s", did, text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scores[did] = score
	return nil
}
