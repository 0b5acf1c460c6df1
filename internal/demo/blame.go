package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// blame.go: something went wrong, and who bears how much of it (SPEC §3).

// blame raises an incident about the newest action of an agent, and tells who bears how much and what is left of each one's σ.
func (st *stage) blame(ctx context.Context, s *step, line *Line) error {
	newest, err := st.newestOf(ctx, s.blame)
	if err != nil {
		return err
	}
	line.Did = "incident about " + newest
	severity := ring.MustSigma("0.60")
	v, err := st.session.RaiseIncident(ctx, policy.Operator(s.who), session.RaiseIncident{Action: newest, Severity: &severity, Reason: s.say})
	if err != nil {
		return err
	}
	table := borne(v.Blame, v.Faultless)
	for _, did := range v.Slashed {
		table = append(table, string(did)+" is slashed")
	}
	for _, did := range s.cost {
		a, err := st.hv.Agent(ctx, did)
		if err != nil {
			return err
		}
		table = append(table, fmt.Sprintf("%s has σ %s", did, a.Sigma))
	}
	line.Result = strings.ReplaceAll(strings.Join(table, ", "), "did:mesh:", "")
	line.OK = true
	for _, told := range s.tells {
		line.OK = line.OK && strings.Contains(line.Result, told)
	}
	return nil
}

// borne is who bears something, or why nobody does.
func borne(blame *session.FaultAttributed, faultless string) (table []string) {
	if blame == nil {
		return []string{"nobody bears it: " + faultless}
	}
	for _, share := range blame.Shares {
		table = append(table, fmt.Sprintf("%s bears %s", share.Agent, share.Share))
	}
	return table
}

// newestOf returns the newest action of an agent.
func (st *stage) newestOf(ctx context.Context, agent policy.DID) (string, error) {
	actions, err := st.session.Actions(ctx, 0, hypervisor.MaxPage)
	if err != nil {
		return "", err
	}
	for i := len(actions) - 1; i >= 0; i-- {
		if actions[i].Agent == agent {
			return actions[i].ID, nil
		}
	}
	return "", fmt.Errorf("%s has done nothing", agent)
}
