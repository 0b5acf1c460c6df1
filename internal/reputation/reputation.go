package reputation

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

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// What a service is given unless the configuration says otherwise.
const (
	DefaultTimeout = 2 * time.Second
	DefaultKeep    = 5 * time.Minute
)

const (
	maxAnswer     = 64 << 10 // bytes
	maxKept       = 10_000   // answers remembered
	maxScore      = 1000
	breakAfter    = 5 // answers that failed, one after the other
	breakFor      = 30 * time.Second
	perThousandth = uint32(ring.One) / maxScore
)

// ErrUnknown is returned, wrapped with why, where the service does not say how it rates an agent.
var ErrUnknown = errors.New("the reputation service does not say")

// A Service is one reputation service. Safe for concurrent use.
type Service struct {
	opts    Options
	at      *url.URL
	client  *http.Client
	breaker circuitbreaker.CircuitBreaker[any]

	mu   sync.Mutex
	kept map[policy.DID]answer
}

// Options say which service, and how it is asked.
type Options struct {
	URL     string            // what the paths of docs/reputation.md stand under
	Headers map[string]string // sent with every question
	Timeout time.Duration     // of one question; zero: DefaultTimeout
	Keep    time.Duration     // how long an answer is remembered; zero: DefaultKeep
	Now     func() time.Time  // nil: the machine's clock
}

type answer struct {
	sigma ring.Sigma
	until time.Time
}

// New returns a service; nothing is asked yet. It returns an error for a URL that is not http or https.
func New(opts Options) (*Service, error) {
	at, err := url.Parse(opts.URL)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return nil, fmt.Errorf("reputation service: want an address such as https://reputation.example, got %q", opts.URL)
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
	return &Service{opts: opts, at: at, kept: map[policy.DID]answer{},
		// A redirect would take the headers, and the question, to where nobody has sent them.
		client:  &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		breaker: circuitbreaker.NewBuilder[any]().WithFailureThreshold(breakAfter).WithDelay(breakFor).Build()}, nil
}

// Score returns how the service rates an agent, as σ. The error is ErrUnknown where it does not answer, answers something else, or has
// failed so often that it is not asked for a while.
func (s *Service) Score(ctx context.Context, did policy.DID) (ring.Sigma, error) {
	now := s.opts.Now()
	s.mu.Lock()
	a, kept := s.kept[did]
	s.mu.Unlock()
	if kept && now.Before(a.until) {
		return a.sigma, nil
	}
	if !s.breaker.TryAcquirePermit() {
		return 0, fmt.Errorf("%w: it has failed %d times in a row and is not asked for %v", ErrUnknown, breakAfter, breakFor)
	}
	sigma, err := s.ask(ctx, did)
	switch {
	case err == nil, errors.Is(err, errNobody):
		s.breaker.RecordSuccess()
	default:
		s.breaker.RecordFailure()
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	s.keep(did, answer{sigma, now.Add(s.opts.Keep)}, now)
	return sigma, nil
}

// errNobody is an answer: the service knows no such agent.
var errNobody = errors.New("it knows no such agent")

// keep remembers an answer. When there are too many, those that are over go, and then any.
func (s *Service) keep(did policy.DID, a answer, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= maxKept {
		for other, old := range s.kept {
			if !now.Before(old.until) {
				delete(s.kept, other)
			}
		}
	}
	for other := range s.kept {
		if len(s.kept) < maxKept {
			break
		}
		delete(s.kept, other)
	}
	s.kept[did] = a
}

func (s *Service) ask(ctx context.Context, did policy.DID) (ring.Sigma, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.at.String(), "/")+"/agents/"+url.PathEscape(string(did))+"/score", nil)
	if err != nil {
		return 0, err
	}
	for name, value := range s.opts.Headers {
		r.Header.Set(name, value)
	}
	w, err := s.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer w.Body.Close()
	b, err := io.ReadAll(io.LimitReader(w.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, err
	case w.StatusCode == http.StatusNotFound:
		return 0, errNobody
	case w.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("it answers %s", w.Status)
	case len(b) > maxAnswer:
		return 0, fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	return parse(b, did)
}

// parse reads an answer. What else it says is of later versions, and read over.
func parse(b []byte, did policy.DID) (ring.Sigma, error) {
	var said struct {
		Agent policy.DID `json:"agent"`
		Score *uint32    `json:"score"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(b), &said); err != nil {
		return 0, fmt.Errorf("its answer cannot be read: %w", err)
	}
	switch {
	case said.Agent != did:
		return 0, fmt.Errorf("it answers for %q", said.Agent)
	case said.Score == nil || *said.Score > maxScore:
		return 0, fmt.Errorf("its answer has no score from 0 to %d", maxScore)
	}
	return ring.Sigma(*said.Score * perThousandth), nil
}
