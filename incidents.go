package hypervisor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// incidents.go: something went wrong. What led to it is found out from the log when somebody asks; nothing of it is kept.

// An IncidentView is an incident as its record tells it.
type IncidentView struct {
	session.IncidentRaised
	Session string
	Seq     uint64
	Time    time.Time
	Blame   *session.FaultAttributed // nil: nobody bears it
	Slashed []policy.DID             // who has lost its standing by it
}

// RaiseIncident reports that something went wrong. An operator's is divided among the agents that led to it, and moves their
// standings; an agent's own is recorded and moves nobody's. The error is *Refused where the rules say no.
func (s *Session) RaiseIncident(ctx context.Context, caller policy.Caller, c session.RaiseIncident) (IncidentView, error) {
	if err := s.hv.enter(); err != nil {
		return IncidentView{}, err
	}
	defer s.hv.leave()
	said := c
	said.Found = nil // what is found out later is not what was asked
	if c.Action != "" {
		var err error
		if c.Found, err = s.findOut(ctx, caller, c.Action); err != nil {
			return IncidentView{}, err
		}
	}
	out, err := s.submit(ctx, caller, c, func(e *session.Env) { e.Key = key(e, c.Key, said) })
	if err := refusedOr(out.Decision, err); err != nil {
		return IncidentView{}, err
	}
	if err := s.tellAll(ctx); err != nil { // the ledgers are told later, then
		s.hv.opts.Logger.Warn("an incident is recorded, and an agent could not be told yet", "session", s.id, "error", err)
		s.tellSoon()
	}
	seq := out.Seq
	if out.Repeats != nil {
		seq = out.Repeats.Seq
	}
	for v, err := range s.Incidents(ctx, seq) {
		return v, err
	}
	return IncidentView{}, fmt.Errorf("the incident of record %d: %w", seq, ErrNotFound)
}

// findOut returns what the records say of an action; nil: there is none. Who bears how much of it is asked for who may attribute it:
// that takes reading the whole log.
func (s *Session) findOut(ctx context.Context, caller policy.Caller, id string) (*session.Finding, error) {
	if !caller.Runs() {
		v, err := s.Action(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		return &session.Finding{Agent: v.Agent, Outcome: v.Outcome, Why: v.Why}, err
	}
	var seed [8]byte
	if err := s.hv.random(seed[:]); err != nil {
		return nil, err
	}
	var story session.Story
	for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, 1) {
		if err != nil {
			return nil, err
		}
		events, err := session.ParseEvents(r.Events)
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", r.Seq, err)
		}
		story.Add(r.Time, events)
	}
	f, there := story.Of(id, binary.BigEndian.Uint64(seed[:]))
	if !there {
		return nil, nil
	}
	return &f, nil
}

// Incidents yields the session's incidents from a record on, oldest first.
func (s *Session) Incidents(ctx context.Context, from uint64) iter.Seq2[IncidentView, error] {
	return func(yield func(IncidentView, error) bool) {
		for r, err := range s.hv.read(ctx, audit.SessionPrefix+s.id, from) {
			var v IncidentView
			if err == nil {
				v, err = s.incidentIn(r)
			}
			if err != nil {
				yield(IncidentView{}, err)
				return
			}
			if v.ID != "" && !yield(v, nil) {
				return
			}
		}
	}
}

// incidentIn returns the incident that a record tells of; one without an ID: none.
func (s *Session) incidentIn(r *stored) (v IncidentView, err error) {
	events, err := session.ParseEvents(r.Events)
	if err != nil {
		return v, fmt.Errorf("record %d: %w", r.Seq, err)
	}
	for _, e := range events {
		switch e := e.(type) {
		case session.IncidentRaised:
			v.IncidentRaised, v.Session, v.Seq, v.Time = e, s.id, r.Seq, r.Time
		case session.FaultAttributed:
			v.Blame = &e
		case session.SlashExecuted:
			v.Slashed = append(v.Slashed, e.Agent)
		default: // no other event is of an incident
		}
	}
	if v.ID == "" {
		return IncidentView{}, nil
	}
	return v, nil
}
