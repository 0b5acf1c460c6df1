// Command drift is a small drift service, to try one with and to read: it is told what agents claim to do, as embeddings, and is
// shown what they were seen to do; what it sees it reports to the hypervisor, which measures and decides (docs/drift.schema.json).
// Without -token-file it reports nothing and is asked instead: services: {drift: {url: "http://127.0.0.1:7801"}} in hypervisor.yaml. It
// keeps everything in memory and asks nobody who they are: do not run it where others reach it.
//
//	hypervisor token create did:mesh:cmvk --role service --out cmvk.token
//	go run ./examples/drift -hypervisor http://127.0.0.1:7700 -token-file cmvk.token
//	curl -X PUT http://127.0.0.1:7801/agents/did:mesh:ann/claimed -d '[1, 0]'
//	curl -X POST http://127.0.0.1:7801/sessions/dev/agents/did:mesh:ann/observed -d '[1, 0.9]'
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	maxBody   = 256 << 10 // of an embedding
	maxAgents = 10_000
	patience  = 10 * time.Second // of the hypervisor
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7801", "host:port")
	hypervisor := flag.String("hypervisor", "http://127.0.0.1:7700", "the hypervisor's address")
	tokenFile := flag.String("token-file", "", "a file with a token of the role service; without one it is asked")
	flag.Parse()
	var token []byte
	if *tokenFile != "" {
		var err error
		if token, err = os.ReadFile(*tokenFile); err != nil {
			fmt.Fprintln(os.Stderr, "drift: -token-file:", err)
			os.Exit(2)
		}
	}
	w := newWatcher(*hypervisor, strings.TrimSpace(string(token)))
	fmt.Printf("drift service on http://%s\n", *listen)
	server := &http.Server{Addr: *listen, Handler: w.handler(), ReadTimeout: patience, WriteTimeout: 2 * patience}
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "drift:", err)
		os.Exit(1)
	}
}

// A watcher knows what agents claim, and reports what they do.
type watcher struct {
	hypervisor, token string // no token: it reports nothing, and is asked
	client            *http.Client

	mu       sync.Mutex
	claimed  map[string]json.RawMessage // by DID
	observed map[string]json.RawMessage // by session and DID, what was seen last
}

func newWatcher(hypervisor, token string) *watcher {
	return &watcher{hypervisor: strings.TrimSuffix(hypervisor, "/"), token: token, client: &http.Client{Timeout: patience}, claimed: map[string]json.RawMessage{}, observed: map[string]json.RawMessage{}}
}

func (w *watcher) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /agents/{did}/claimed", func(out http.ResponseWriter, r *http.Request) {
		v, err := embedding(out, r)
		if err == nil {
			err = w.claim(r.PathValue("did"), v)
		}
		if err != nil {
			http.Error(out, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("POST /sessions/{id}/agents/{did}/observed", func(out http.ResponseWriter, r *http.Request) {
		v, err := embedding(out, r)
		if err != nil {
			http.Error(out, err.Error(), http.StatusBadRequest)
			return
		}
		if w.token == "" {
			if err := w.see(r.PathValue("id"), r.PathValue("did"), v); err != nil {
				http.Error(out, err.Error(), http.StatusBadRequest)
			}
			return
		}
		status, answer, err := w.report(r, r.PathValue("id"), r.PathValue("did"), v)
		if err != nil {
			http.Error(out, err.Error(), http.StatusBadGateway)
			return
		}
		out.Header().Set("Content-Type", "application/json")
		out.WriteHeader(status)
		_, _ = out.Write(answer)
	})
	mux.HandleFunc("GET /sessions/{id}/agents/{did}/drift", func(out http.ResponseWriter, r *http.Request) {
		did := r.PathValue("did")
		w.mu.Lock()
		claimed, observed := w.claimed[did], w.observed[r.PathValue("id")+" "+did]
		w.mu.Unlock()
		if claimed == nil || observed == nil {
			http.Error(out, "nothing was observed of it", http.StatusNotFound)
			return
		}
		out.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(out).Encode(map[string]any{"agent": did, "claimed": claimed, "observed": observed, "metric": "cosine"})
	})
	return mux
}

// see keeps what an agent was seen to do, for when the hypervisor asks.
func (w *watcher) see(session, did string, v json.RawMessage) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := session + " " + did
	if _, known := w.observed[key]; !known && len(w.observed) >= maxAgents {
		return fmt.Errorf("%d agents are seen already", maxAgents)
	}
	w.observed[key] = v
	return nil
}

// embedding reads a list of numbers, each as it is written.
func embedding(out http.ResponseWriter, r *http.Request) (json.RawMessage, error) {
	b, err := io.ReadAll(http.MaxBytesReader(out, r.Body, maxBody))
	if err != nil {
		return nil, err
	}
	var numbers []json.Number
	if err := json.Unmarshal(b, &numbers); err != nil || len(numbers) == 0 {
		return nil, fmt.Errorf("want a list of numbers such as [0.1, 0.7]")
	}
	return b, nil
}

func (w *watcher) claim(did string, v json.RawMessage) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.claimed[did]; !known && len(w.claimed) >= maxAgents {
		return fmt.Errorf("%d agents are watched already", maxAgents)
	}
	w.claimed[did] = v
	return nil
}

// report tells the hypervisor what an agent claims and what it was seen to do, and returns what follows.
func (w *watcher) report(r *http.Request, session, did string, observed json.RawMessage) (int, []byte, error) {
	w.mu.Lock()
	claimed, known := w.claimed[did]
	w.mu.Unlock()
	if !known {
		return 0, nil, fmt.Errorf("%s has claimed nothing", did)
	}
	body, err := json.Marshal(map[string]any{"agent": did, "claimed": claimed, "observed": observed, "metric": "cosine"})
	if err != nil {
		return 0, nil, err
	}
	q, err := http.NewRequestWithContext(r.Context(), http.MethodPost, w.hypervisor+"/v1/sessions/"+url.PathEscape(session)+"/drifts", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	q.Header.Set("Authorization", "Bearer "+w.token)
	answer, err := w.client.Do(q)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	return answer.StatusCode, b, err
}
