package watcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/policy"
)

const ann = policy.DID("did:mesh:ann")

func served(t *testing.T, opts service.Options, answer http.HandlerFunc) (*Service, *atomic.Int64) {
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

// SPEC §9: "services over HTTP with … an expiring cache".
func TestAnAgentIsAskedAboutWhenWhatIsKnownIsOld(t *testing.T) {
	now := time.Unix(0, 0)
	s, asked := served(t, service.Options{Headers: map[string]string{"X-Key": "k"}, Now: func() time.Time { return now }}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/sessions/ses-1/agents/did:mesh:ann/drift" || r.Header.Get("X-Key") != "k" {
			t.Errorf("%s %v", r.URL.Path, r.Header)
		}
		fmt.Fprint(w, `{"agent":"did:mesh:ann","distance":0.35,"reason":"another voice"}`)
	})
	for _, c := range []struct {
		after time.Duration
		wants bool
	}{{0, true}, {0, false}, {service.DefaultKeep - 1, false}, {1, true}} {
		now = now.Add(c.after)
		if got := s.Wants("ses-1", ann); got != c.wants {
			t.Errorf("after %v: %t", c.after, got)
		} else if got {
			if said, err := s.Observe(context.Background(), "ses-1", ann); err != nil || said.Distance != 350_000 || said.Reason != "another voice" || said.Agent != ann {
				t.Errorf("%+v, %v", said, err)
			}
		}
	}
	if asked.Load() != 2 || !s.Wants("ses-2", ann) {
		t.Errorf("asked %d times", asked.Load())
	}
}

// "when one is down the result is 'unknown'": what is no answer is no distance.
func TestWhatIsNoAnswerIsUnknown(t *testing.T) {
	for _, text := range []string{``, `{}`, `[]`, `{"agent":"did:mesh:ann"}`, `{"agent":"did:mesh:bob","distance":0.9}`, `{"agent":"did:mesh:ann","distance":1.1}`, `{"agent":"did:mesh:ann","distance":-1}`,
		`{"agent":"did:mesh:ann","distance":0.5,"metric":"cosine"}`, `{"agent":"did:mesh:ann","distance":0.5,"claimed":[1],"observed":[1]}`, `{"agent":"did:mesh:ann","claimed":[1]}`,
		`{"agent":"did:mesh:ann","claimed":[1],"observed":[1,2]}`, `{"agent":"did:mesh:ann","claimed":["1"],"observed":[1]}`, `{"agent":"did:mesh:ann","claimed":[1],"observed":[1],"metric":"x"}`,
		`{"agent":"did:mesh:ann","distance":0.1,"distance":0.9}`, `<html>`, strings.Repeat(" ", maxAnswer) + `{"agent":"did:mesh:ann","distance":0.9}`} {
		s, _ := served(t, service.Options{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
		if !s.Wants("s", ann) {
			t.Fatal("not asked")
		}
		if said, err := s.Observe(context.Background(), "s", ann); !errors.Is(err, service.ErrUnknown) || said.Agent != "" {
			t.Errorf("%.60s: %+v, %v", text, said, err)
		}
	}
	s, _ := served(t, service.Options{Timeout: time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s.Wants("s", ann)
	if _, err := s.Observe(context.Background(), "s", ann); !errors.Is(err, service.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that does not answer: %v", err)
	}
	s, _ = served(t, service.Options{}, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"agent":"did:mesh:ann","claimed":[0.1,0],"observed":[0.1,3.5e-1],"metric":"euclidean","more":1}`)
	})
	s.Wants("s", ann)
	if said, err := s.Observe(context.Background(), "s", ann); err != nil || said.Metric != "euclidean" || len(said.Claimed) != 2 || said.Observed[1] != 350_000_000 {
		t.Errorf("%+v, %v", said, err)
	}
}

// "a breaker": a service that fails is left alone; one that has observed nothing does not fail.
func TestAServiceThatFailsIsLeftAlone(t *testing.T) {
	status := http.StatusNotFound
	s, asked := served(t, service.Options{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	ask := func(from, to int) {
		for i := from; i < to; i++ {
			if id := fmt.Sprint("ses-", i); s.Wants(id, ann) {
				if _, err := s.Observe(context.Background(), id, ann); !errors.Is(err, service.ErrUnknown) {
					t.Error(err)
				}
			}
		}
	}
	ask(0, 2*service.BreakAfter)
	if asked.Load() != 2*service.BreakAfter {
		t.Errorf("asked %d times", asked.Load())
	}
	status = http.StatusInternalServerError
	ask(2*service.BreakAfter, 6*service.BreakAfter)
	if asked.Load() != 3*service.BreakAfter {
		t.Errorf("asked %d times, want %d", asked.Load(), 3*service.BreakAfter)
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	for _, bad := range []string{"", "drift.example", "ftp://x", "http://", ":"} {
		if _, err := New(service.Options{URL: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
