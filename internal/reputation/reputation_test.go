package reputation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/policy"
)

// served is a service that answers with what it is told to, and counts.
func served(t *testing.T, opts service.Options, answer func(w http.ResponseWriter, r *http.Request)) (*Service, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	opts.URL = server.URL + "/v1/"
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s, &asked
}

const ann = policy.DID("did:mesh:ann")

// SPEC §9: "0–1000 → σ"; "an expiring cache".
func TestAScoreIsAskedForAndRememberedForAWhile(t *testing.T) {
	now := time.Unix(0, 0)
	score := 725
	s, asked := served(t, service.Options{Headers: map[string]string{"Authorization": "Bearer x"}, Now: func() time.Time { return now }}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/agents/did:mesh:ann/score" || r.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("%s %v", r.URL.Path, r.Header)
		}
		fmt.Fprintf(w, `{"agent":"did:mesh:ann","score":%d,"tier":"trusted"}`, score)
	})
	for _, c := range []struct {
		after time.Duration
		score int
		want  string
		asked int64
	}{{0, 725, "0.725", 1}, {service.DefaultKeep - 1, 100, "0.725", 1}, {1, 100, "0.10", 2}} {
		now, score = now.Add(c.after), c.score
		if got, err := s.Score(context.Background(), ann); err != nil || got.String() != c.want || asked.Load() != c.asked {
			t.Errorf("after %v: %s, %v, asked %d times", c.after, got, err, asked.Load())
		}
	}
}

// "when one is down the result is 'unknown'": no failure is a score, and none is remembered as one.
func TestWhatIsNoScoreIsUnknown(t *testing.T) {
	for _, text := range []string{``, `{}`, `[]`, `{"agent":"did:mesh:ann"}`, `{"agent":"did:mesh:bob","score":900}`, `{"agent":"did:mesh:ann","score":1001}`, `{"agent":"did:mesh:ann","score":-1}`,
		`{"agent":"did:mesh:ann","score":7.5}`, `{"agent":"did:mesh:ann","score":1,"score":900}`, `{"agent":"did:mesh:ann","Score":900}`, strings.Repeat(" ", maxAnswer) + `{"agent":"did:mesh:ann","score":900}`} {
		if s, _ := served(t, service.Options{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }); true {
			if got, err := s.Score(context.Background(), ann); !errors.Is(err, service.ErrUnknown) || got != 0 {
				t.Errorf("%.60s: %s, %v", text, got, err)
			}
		}
	}
	s, _ := served(t, service.Options{}, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	if _, err := s.Score(context.Background(), ann); !errors.Is(err, service.ErrUnknown) {
		t.Errorf("a redirect: %v", err)
	}
	s, _ = served(t, service.Options{Timeout: time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if _, err := s.Score(context.Background(), ann); !errors.Is(err, service.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that does not answer: %v", err)
	}
}

// "a breaker": a service that fails is left alone; one that knows nobody does not fail.
func TestAServiceThatFailsIsLeftAlone(t *testing.T) {
	status := http.StatusNotFound
	s, asked := served(t, service.Options{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	ask := func(times int) {
		for range times {
			if _, err := s.Score(context.Background(), ann); !errors.Is(err, service.ErrUnknown) {
				t.Error(err)
			}
		}
	}
	ask(2 * service.BreakAfter)
	if asked.Load() != 2*service.BreakAfter {
		t.Errorf("asked %d times of who is not known", asked.Load())
	}
	status = http.StatusInternalServerError
	ask(3 * service.BreakAfter)
	if got := asked.Load(); got != 3*service.BreakAfter {
		t.Errorf("asked %d times, want %d", got, 3*service.BreakAfter)
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	for _, bad := range []string{"", "reputation.example", "ftp://x", "http://", ":"} {
		if _, err := New(service.Options{URL: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// The schema in docs/ takes the answers that are read.
func TestTheSchemaOfAnAnswer(t *testing.T) {
	b, err := os.ReadFile("../../docs/reputation.schema.json")
	var schema jsonschema.Schema
	if err == nil {
		err = json.Unmarshal(b, &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for text, good := range map[string]bool{`{"agent":"did:mesh:ann","score":725,"tier":"trusted"}`: true, `{"agent":"did:mesh:ann","score":0,"more":1}`: true,
		`{"agent":"did:mesh:ann"}`: false, `{"agent":"did:mesh:ann","score":1001}`: false, `{"agent":"did:mesh:ann","score":7.5}`: false, `{"score":1}`: false} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		_, read := parse([]byte(text), ann)
		if err := resolved.Validate(v); (err == nil) != good || (read == nil) != good {
			t.Errorf("%s: the schema says %v, parse says %v", text, err, read)
		}
	}
}
