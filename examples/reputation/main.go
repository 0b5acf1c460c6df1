// Command reputation is a small reputation service, to try one with and to read (docs/reputation.md): it answers how it rates an
// agent, from 0 to 1000, an operator of it sets that, and hypervisors report what agents' conduct brought them: a report counts once,
// however often it comes. It keeps everything in memory. Who reports shows the token of REPUTATION_TOKEN, where that is set; nobody
// else is asked who they are: do not run it where others reach it.
//
//	go run ./examples/reputation -listen 127.0.0.1:7800 did:mesh:ann=850 did:mesh:bob=420
package main

import (
	"crypto/subtle"
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
	s := newService(os.Getenv("REPUTATION_TOKEN"))
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

// A service knows agents' scores, and what hypervisors have reported.
type service struct {
	token string // of who reports; empty: anybody does

	mu      sync.Mutex
	scores  map[string]int
	reports map[string]report // by id
	order   []string          // of their ids, oldest first
}

const (
	maxReport  = 64 << 10 // bytes
	maxReports = 100_000  // remembered: the oldest go
)

func newService(token string) *service {
	return &service{token: token, scores: map[string]int{}, reports: map[string]report{}}
}

// A report is docs/report.schema.json.
type report struct {
	ID       string  `json:"id"`
	Agent    string  `json:"agent"`
	Kind     string  `json:"kind"`
	Score    int     `json:"score"`
	Time     string  `json:"time"`
	Session  string  `json:"session,omitempty"`
	Share    float64 `json:"share,omitempty"`
	Severity float64 `json:"severity,omitempty"`
	Lost     float64 `json:"lost,omitempty"`
	Cause    string  `json:"cause,omitempty"`
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
		writeJSON(w, http.StatusOK, map[string]any{"agent": r.PathValue("did"), "score": score, "tier": tier(score)})
	})
	mux.HandleFunc("PUT /agents/{did}/score/{score}", func(w http.ResponseWriter, r *http.Request) {
		if err := s.set(r.PathValue("did"), r.PathValue("score")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("POST /reports", s.takeReport)
	mux.HandleFunc("GET /reports", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		all := make([]report, 0, len(s.order))
		for _, id := range s.order {
			all = append(all, s.reports[id])
		}
		s.mu.Unlock()
		writeJSON(w, http.StatusOK, all)
	})
	return mux
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever has gone asks again
}

// takeReport takes a report once. Its id is the answer, whether it is new or not: a hypervisor that did not get the answer asks again.
func (s *service) takeReport(w http.ResponseWriter, r *http.Request) {
	if s.token != "" && subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.token)) != 1 {
		http.Error(w, "whose report is it? Authorization: Bearer …", http.StatusUnauthorized)
		return
	}
	var said report
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReport))
	if err := d.Decode(&said); err != nil {
		http.Error(w, "no report: "+err.Error(), http.StatusBadRequest)
		return
	}
	if len(said.ID) != 64 || !strings.HasPrefix(said.Agent, "did:") || said.Score < 0 || said.Score > 1000 {
		http.Error(w, "this will never be a report", http.StatusUnprocessableEntity)
		return
	}
	if seen := s.report(said); seen {
		writeJSON(w, http.StatusOK, map[string]any{"id": said.ID, "seen": true})
		return
	}
	writeJSON(w, http.StatusCreated, map[string]any{"id": said.ID})
}

// report counts a report that was not seen before: nobody is rated higher than its conduct lets it be, until it is reinstated.
func (s *service) report(r report) (seen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, seen := s.reports[r.ID]; seen {
		return true
	}
	s.reports[r.ID], s.order = r, append(s.order, r.ID)
	if len(s.order) > maxReports {
		delete(s.reports, s.order[0])
		s.order = s.order[1:]
	}
	if was, rated := s.scores[r.Agent]; !rated || r.Score < was || r.Kind == "reinstate" {
		s.scores[r.Agent] = r.Score
	}
	return false
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
