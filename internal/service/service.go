package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// What a service is given unless the configuration says otherwise.
const (
	DefaultTimeout = 2 * time.Second
	DefaultKeep    = 5 * time.Minute
)

// When a service that fails is left alone, and for how long.
const (
	BreakAfter = 5 // answers that failed, one after the other
	BreakFor   = 30 * time.Second
)

// ErrUnknown is returned, wrapped with which service and why, where one does not say what it is asked.
var ErrUnknown = errors.New("does not say")

// ErrNothing is returned, beside ErrUnknown, where a service answers that it knows nothing of what it is asked about.
var ErrNothing = errors.New("it knows nothing of that")

// Options say which service, and how it is asked.
type Options struct {
	URL     string            // what the paths of its document stand under
	Headers map[string]string // sent with every request
	Timeout time.Duration     // of one request; zero: DefaultTimeout
	Keep    time.Duration     // how long an answer is good; zero: DefaultKeep
	Now     func() time.Time  // nil: the machine's clock
}

// A Service is one service. Safe for concurrent use.
type Service struct {
	name    string
	opts    Options // none is zero
	client  *http.Client
	breaker circuitbreaker.CircuitBreaker[any]
}

// New returns a service; nothing is asked yet. The name says in errors which it is, such as "drift". It returns an error for a URL
// that is not http or https.
func New(name string, opts Options) (*Service, error) {
	at, err := url.Parse(opts.URL)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" {
		return nil, fmt.Errorf("%s service: want an address such as https://%s.example, got %q", name, name, opts.URL)
	}
	opts.URL = strings.TrimSuffix(at.String(), "/")
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Keep == 0 {
		opts.Keep = DefaultKeep
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Service{name: name, opts: opts,
		// A redirect would take the headers, and the question, to where nobody has sent them.
		client:  &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		breaker: circuitbreaker.NewBuilder[any]().WithFailureThreshold(BreakAfter).WithDelay(BreakFor).Build()}, nil
}

// Permit reports whether the service may be asked now: it has not failed so often that it is left alone. Ask follows.
func (s *Service) Permit() bool { return s.breaker.TryAcquirePermit() }

// LeftAlone returns why a service is not asked that Permit does not let through: ErrUnknown.
func (s *Service) LeftAlone() error {
	return s.unknown(fmt.Errorf("it has failed %d times in a row and is not asked for %v", BreakAfter, BreakFor))
}

// Ask asks what stands under a path, after Permit, and has the answer read, of which it takes so many bytes at most. The error is
// ErrUnknown where the service does not answer, where it knows nothing of that (ErrNothing: 404, which is no failure), and where
// the answer is something else or read returns an error.
func (s *Service) Ask(ctx context.Context, path string, most int, read func(answer []byte) error) error {
	err := s.ask(ctx, path, most, read)
	if err == nil || errors.Is(err, ErrNothing) {
		s.breaker.RecordSuccess()
	} else {
		s.breaker.RecordFailure()
	}
	if err != nil {
		return s.unknown(err)
	}
	return nil
}

func (s *Service) unknown(why error) error {
	return fmt.Errorf("the %s service %w: %w", s.name, ErrUnknown, why)
}

func (s *Service) ask(ctx context.Context, path string, most int, read func([]byte) error) error {
	a, err := s.send(ctx, http.MethodGet, path, nil, nil, most)
	switch {
	case err != nil:
		return err
	case a.Status == http.StatusNotFound:
		return ErrNothing
	case a.Status != http.StatusOK:
		return fmt.Errorf("it answers %d %s", a.Status, http.StatusText(a.Status))
	case a.Body == nil:
		return fmt.Errorf("its answer is longer than %d bytes", most)
	}
	return read(a.Body)
}

// An Answer is what a service said to what it was told.
type Answer struct {
	Status int    // of HTTP
	Body   []byte // without white space around it; nil: longer than is taken
}

// Tell posts a JSON text to a path, under an idempotency key, and returns the answer, of which it takes so many bytes at most. It asks
// no Permit and counts as nothing to the breaker: who tells again until it is heard waits by itself.
func (s *Service) Tell(ctx context.Context, path, key string, body []byte, most int) (Answer, error) {
	a, err := s.send(ctx, http.MethodPost, path, http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {key}}, body, most)
	if err != nil {
		return Answer{}, fmt.Errorf("telling the %s service: %w", s.name, err)
	}
	return a, nil
}

// send makes one request. The head it is given stands against a header of the configuration.
func (s *Service) send(ctx context.Context, method, path string, head http.Header, body []byte, most int) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.opts.URL+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	for name, value := range s.opts.Headers {
		r.Header.Set(name, value)
	}
	maps.Copy(r.Header, head)
	w, err := s.client.Do(r)
	if err != nil {
		return Answer{}, err
	}
	defer w.Body.Close()
	b, err := io.ReadAll(io.LimitReader(w.Body, int64(most)+1))
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	a := Answer{Status: w.StatusCode}
	if len(b) <= most {
		a.Body = bytes.TrimSpace(b)
	}
	return a, nil
}
