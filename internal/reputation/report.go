package reputation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// report.go: what an agent's conduct brought it here is told to the service. Who calls Report waits after a failure before the next,
// so it needs no breaker; and one that takes no reports is asked for scores all the same.

// A notice is what a service is told: docs/report.schema.json.
type notice struct {
	ID       audit.Hash `json:"id"`
	Agent    policy.DID `json:"agent"`
	Kind     agent.Kind `json:"kind"`
	Score    uint32     `json:"score"`
	Time     time.Time  `json:"time"`
	Session  string     `json:"session,omitempty"`
	Share    ring.Sigma `json:"share,omitzero"`
	Severity ring.Sigma `json:"severity,omitzero"`
	Lost     ring.Sigma `json:"lost,omitzero"`
	Cause    string     `json:"cause,omitempty"`
}

// Report tells the service of an entry, and returns true once it has said that it has it, false where it has read it and does not
// take it.
func (s *Service) Report(ctx context.Context, n agent.Notice) (taken bool, err error) {
	body, err := json.Marshal(notice{n.ID, n.Agent, n.Kind, uint32(n.Sigma) / perThousandth, n.Time.UTC(), n.Session, n.Share, n.Severity, n.Lost, n.Cause})
	if err != nil {
		return false, err
	}
	a, err := s.asked.Tell(ctx, "/reports", n.ID.String(), body, maxAnswer)
	switch {
	case err != nil:
		return false, err
	case a.Status == http.StatusUnprocessableEntity:
		return false, nil
	case a.Status != http.StatusOK && a.Status != http.StatusCreated:
		return false, fmt.Errorf("the reputation service answers a report with %d %s", a.Status, http.StatusText(a.Status))
	}
	var said struct {
		ID audit.Hash `json:"id"`
	}
	// A page that something on the way answers with says nothing of the report.
	if err := json.Unmarshal(a.Body, &said); err != nil || said.ID != n.ID {
		return false, errors.New("the reputation service answers a report with something else than its id")
	}
	return true, nil
}
