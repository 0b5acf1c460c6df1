package watcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/agenthypervisor/hypervisor/drift"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// What a service is given unless the configuration says otherwise.
const (
	DefaultTimeout = 2 * time.Second
	DefaultKeep    = 5 * time.Minute
)

const (
	maxAnswer  = 256 << 10 // bytes: two embeddings
	maxKept    = 10_000    // agents in sessions of which something is known
	maxAsking  = 32        // at once
	breakAfter = 5         // answers that failed, one after the other
	breakFor   = 30 * time.Second
)

// ErrUnknown is returned, wrapped with why, where the service does not say how far an agent has moved.
var ErrUnknown = errors.New("the drift service does not say")

// A Service is one drift service. Safe for concurrent use.
type Service struct {
	opts    Options
	at      *url.URL
	client  *http.Client
	breaker circuitbreaker.CircuitBreaker[any]

	mu     sync.Mutex
	fresh  map[subject]time.Time // until when what is known is not old
	asking int
}

// A subject is an agent in a session.
type subject struct {
	session string
	agent   policy.DID
}

// Options say which service, and how it is asked.
type Options struct {
	URL     string            // what the paths of docs/drift.md stand under
	Headers map[string]string // sent with every question
	Timeout time.Duration     // of one question; zero: DefaultTimeout
	Keep    time.Duration     // how long an answer is good; zero: DefaultKeep
	Now     func() time.Time  // nil: the machine's clock
}

// New returns a service; nothing is asked yet. It returns an error for a URL that is not http or https.
func New(opts Options) (*Service, error) {
	at, err := url.Parse(opts.URL)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return nil, fmt.Errorf("drift service: want an address such as https://drift.example, got %q", opts.URL)
	}
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Keep == 0 {
		opts.Keep = DefaultKeep
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Service{opts: opts, at: at, fresh: map[subject]time.Time{},
		// A redirect would take the headers, and the question, to where nobody has sent them.
		client:  &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		breaker: circuitbreaker.NewBuilder[any]().WithFailureThreshold(breakAfter).WithDelay(breakFor).Build()}, nil
}

// Wants reports whether the service is to be asked about an agent now: what is known of it is old, and the service answers. Whoever is
// told so asks, with Observe; meanwhile nobody else is.
func (s *Service) Wants(id string, did policy.DID) bool {
	of, now := subject{id, did}, s.opts.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if until, known := s.fresh[of]; known && now.Before(until) || s.asking >= maxAsking || !s.breaker.TryAcquirePermit() {
		return false
	}
	if len(s.fresh) >= maxKept {
		for other, until := range s.fresh {
			if !now.Before(until) {
				delete(s.fresh, other)
			}
		}
	}
	for other := range s.fresh {
		if len(s.fresh) < maxKept {
			break
		}
		delete(s.fresh, other)
	}
	s.asking++
	s.fresh[of] = now.Add(s.opts.Keep)
	return true
}

// Observe asks how far an agent has moved, after Wants. The error is ErrUnknown where the service does not answer, answers something
// else, or does not know.
func (s *Service) Observe(ctx context.Context, id string, did policy.DID) (session.ReportDrift, error) {
	said, err := s.ask(ctx, id, did)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking--
	switch {
	case err == nil, errors.Is(err, errNothing):
		s.breaker.RecordSuccess()
	default:
		s.breaker.RecordFailure()
		s.fresh[subject{id, did}] = s.opts.Now().Add(min(breakFor, s.opts.Keep))
	}
	if err != nil {
		return session.ReportDrift{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return said, nil
}

// errNothing is an answer: the service has observed nothing.
var errNothing = errors.New("it has observed nothing")

func (s *Service) ask(ctx context.Context, id string, did policy.DID) (none session.ReportDrift, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(s.at.String(), "/")+"/sessions/"+url.PathEscape(id)+"/agents/"+url.PathEscape(string(did))+"/drift", nil)
	if err != nil {
		return none, err
	}
	for name, value := range s.opts.Headers {
		r.Header.Set(name, value)
	}
	w, err := s.client.Do(r)
	if err != nil {
		return none, err
	}
	defer w.Body.Close()
	b, err := io.ReadAll(io.LimitReader(w.Body, maxAnswer+1))
	switch {
	case err != nil:
		return none, err
	case w.StatusCode == http.StatusNotFound:
		return none, errNothing
	case w.StatusCode != http.StatusOK:
		return none, fmt.Errorf("it answers %s", w.Status)
	case len(b) > maxAnswer:
		return none, fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	return parse(b, did)
}

// A number is a JSON number as it is written.
type number string

// UnmarshalJSON takes a number as it stands there.
func (n *number) UnmarshalJSON(b []byte) error {
	if jsontext.Value(b).Kind() != '0' {
		return fmt.Errorf("want a number, got %.20s", b)
	}
	*n = number(b)
	return nil
}

// parse reads an answer, which has the shape of a report. What else it says is of later versions, and read over.
func parse(b []byte, did policy.DID) (none session.ReportDrift, err error) {
	var said struct {
		Agent    policy.DID  `json:"agent"`
		Claimed  []number    `json:"claimed"`
		Observed []number    `json:"observed"`
		Metric   string      `json:"metric"`
		Distance *ring.Sigma `json:"distance"`
		Reason   string      `json:"reason"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(b), &said); err != nil {
		return none, fmt.Errorf("its answer cannot be read: %w", err)
	}
	c := session.ReportDrift{Agent: did, Reason: said.Reason}
	switch {
	case said.Agent != did:
		return none, fmt.Errorf("it answers for %q", said.Agent)
	case (said.Distance != nil) == (said.Claimed != nil || said.Observed != nil):
		return none, errors.New("its answer has neither a distance nor two embeddings, or both")
	case said.Distance != nil && (said.Metric != "" || *said.Distance > ring.One):
		return none, errors.New("its answer has no distance from 0 to 1 that is measured already")
	case said.Distance != nil:
		c.Distance = *said.Distance
		return c, nil
	}
	if c.Metric = said.Metric; c.Metric == "" {
		c.Metric = drift.Cosine
	}
	if c.Claimed, err = drift.ParseVector(said.Claimed); err == nil {
		c.Observed, err = drift.ParseVector(said.Observed)
	}
	if err == nil {
		_, err = drift.Measure(c.Metric, c.Claimed, c.Observed)
	}
	if err != nil {
		return none, err
	}
	return c, nil
}
