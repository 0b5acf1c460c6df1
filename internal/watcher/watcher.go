package watcher

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/agenthypervisor/hypervisor/drift"
	"github.com/agenthypervisor/hypervisor/internal/service"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

const (
	maxAnswer = 256 << 10 // bytes: two embeddings
	maxAsking = 32        // at once
)

// A Service is one drift service. Safe for concurrent use.
type Service struct {
	asked *service.Service
	fresh *service.Kept[subject, struct{}] // of whom what is known is not old, or is being asked

	mu     sync.Mutex
	asking int
}

// A subject is an agent in a session.
type subject struct {
	session string
	agent   policy.DID
}

// New returns a service; nothing is asked yet. The paths of docs/drift.md stand under the URL. It returns an error for one that is not
// http or https.
func New(opts service.Options) (*Service, error) {
	s, err := service.New("drift", opts)
	if err != nil {
		return nil, err
	}
	return &Service{asked: s, fresh: service.NewKept[subject, struct{}](s)}, nil
}

// Wants reports whether the service is to be asked about an agent now: what is known of it is old, and the service answers. Whoever is
// told so asks, with Observe; meanwhile nobody else is.
func (s *Service) Wants(id string, did policy.DID) bool {
	of := subject{id, did}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.fresh.Said(of); known || s.asking >= maxAsking || !s.asked.Permit() {
		return false
	}
	s.asking++
	s.fresh.Keep(of, struct{}{})
	return true
}

// Observe asks how far an agent has moved, after Wants. The error is service.ErrUnknown where the service does not answer, answers
// something else, or has observed nothing.
func (s *Service) Observe(ctx context.Context, id string, did policy.DID) (said session.ReportDrift, err error) {
	path := "/sessions/" + url.PathEscape(id) + "/agents/" + url.PathEscape(string(did)) + "/drift"
	err = s.asked.Ask(ctx, path, maxAnswer, func(answer []byte) (err error) {
		said, err = parse(answer, did)
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking--
	if err != nil && !errors.Is(err, service.ErrNothing) {
		s.fresh.KeepUntilRetry(subject{id, did}, struct{}{})
	}
	return said, err
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
	if err := json.Unmarshal(b, &said); err != nil {
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
