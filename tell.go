package hypervisor

import (
	"context"
	"errors"
	"slices"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// tell.go: what a session owes its agents' streams, from its record into theirs. If we crash behind an agent's record and before
// the session's, the entry is told again, and its number says so.

// tellSoon lets the executor tell what is owed. It may be called with or without the lock.
func (s *Session) tellSoon() {
	if s.tells.CompareAndSwap(false, true) {
		s.hv.offer(func(ctx context.Context) {
			s.tells.Store(false)
			s.tell(ctx)
		})
	}
}

func (s *Session) tell(ctx context.Context) {
	err := s.tellAll(ctx)
	if err == nil || s.hv.closing.Load() || errors.Is(err, ErrNotFound) || errors.Is(err, errForgotten) {
		return // what is left is owed to the next process
	}
	s.hv.opts.Logger.Warn("an agent could not be told what its session owes it; it is tried again", "session", s.id, "error", err)
	s.hv.later(settleRetry, s.tell)
}

// tellAll tells until nothing is owed, also what the telling itself brings about.
func (s *Session) tellAll(ctx context.Context) error {
	s.telling.Lock()
	defer s.telling.Unlock()
	for {
		owed, err := s.owed(ctx)
		if err != nil || len(owed) == 0 {
			return err
		}
		answers, failed := s.hv.agents.tell(ctx, owed)
		if len(answers) > 0 {
			if _, err := s.submit(ctx, policy.System.Through("executor"), session.Told{Answers: answers}, nil); err != nil {
				return err
			}
		}
		if failed != nil {
			return failed
		}
	}
}

func (s *Session) owed(ctx context.Context) ([]session.OwedEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(s.live.state.Owed), nil
}

// tell enters what a session owes, agent by agent, each one's in order. It answers for those that could be told, and returns the
// error of the first that could not.
func (a *standings) tell(ctx context.Context, owed []session.OwedEntry) (answers []session.Answer, failed error) {
	var agents []policy.DID
	commands, numbers := map[policy.DID][]agent.Command{}, map[policy.DID][]uint64{}
	for _, o := range owed {
		if commands[o.Agent] == nil {
			agents = append(agents, o.Agent)
		}
		commands[o.Agent] = append(commands[o.Agent], agent.Enter{Entry: o.Entry})
		numbers[o.Agent] = append(numbers[o.Agent], o.Entry.Number)
	}
	for _, did := range agents {
		became, err := a.submitAll(ctx, policy.System.Through("executor"), did, commands[did]...)
		for i, b := range became {
			answer := session.Answer{Number: numbers[did][i], Sigma: b.Sigma, Lost: b.Lost}
			if !b.Allowed {
				answer.Code, answer.Why = b.Code, b.Reason
			}
			answers = append(answers, answer)
		}
		if failed == nil {
			failed = err
		}
	}
	return answers, failed
}
