package hypervisor

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
	"github.com/agenthypervisor/hypervisor/session"
)

// A Session is a live handle on one session: its lock, its tools, the calls under way. Its state is loaded when it is used
// and let go when it is idle. Safe for concurrent use.
type Session struct {
	hv *Hypervisor
	id string

	sealed chan struct{} // closed once the summary is recorded

	reviving atomic.Bool // revive waits for its time
	looking  atomic.Bool // toolsCame waits for its time

	tells       atomic.Bool // a task that tells what is owed waits for its turn
	attributing sync.Mutex  // held by who finds out who bears that sagas failed
	telling     sync.Mutex  // held by who tells: what is told twice is harmless, and a waste

	sagaMu   sync.Mutex                   // never held with another: effects take it, with and without mu
	resting  chan struct{}                // closed when a saga rests; nil: nobody waits for that
	sagaKept map[string][]json.RawMessage // what the steps of some sagas are called with

	mu     sync.Mutex
	live   *live  // nil: to be loaded
	late   func() // stops the timer that is set for lateAt, when the first of the calls that have an end might be late; nil: none is
	lateAt time.Time

	tools map[policy.DID]map[string]*handler // by action id; the zero DID's are everybody's
	descs map[audit.Hash]*described          // of tools, by digest: a thousand agents share them
	calls map[string]*call                   // without a recorded outcome, by action id
	used  time.Time

	trying map[session.SagaTry]bool // tries of sagas that are on their way to their admission
	sum    Summary                  // valid once sealed is closed

	known     bool // there is, or was meant to be, such a session: who has the handle may keep it
	gone      bool // another handle may stand for the session; this one writes nothing any more
	recovered bool // this process has brought the session up to date
	lost      bool // records were lost that may have been acknowledged; the next record opens an epoch
}

// A Summary says how a session ended.
type Summary struct {
	Hash    audit.Hash `json:"summary_hash"` // the root of the RFC 6962 tree over the session's records
	Records uint64     `json:"records"`
}

// CreateSession opens a session; it enters handshaking at once. An operator's. A nil cfg has all defaults. A Name in it is
// an alias: it stands for this session from now on, unless an earlier one of the name has not ended.
func (hv *Hypervisor) CreateSession(ctx context.Context, caller policy.Caller, cfg *session.Config) (*Session, error) {
	var b [10]byte
	if err := hv.random(b[:]); err != nil {
		return nil, err
	}
	return hv.create(ctx, caller, session.IDPrefix+hex.EncodeToString(b[:]), creation(cfg))
}

// CreateSessionOnce is CreateSession that can be repeated: the id derives from the caller and the key, and where that session
// exists it is returned. It refuses a key that was used for other settings.
func (hv *Hypervisor) CreateSessionOnce(ctx context.Context, caller policy.Caller, key string, cfg *session.Config) (*Session, error) {
	if key == "" || len(key) > session.MaxKeyBytes {
		return nil, fmt.Errorf("an idempotency key has 1 to %d bytes", session.MaxKeyBytes)
	}
	mac := hmac.New(sha256.New, []byte(caller.DID))
	mac.Write([]byte(key))
	id := session.IDPrefix + hex.EncodeToString(mac.Sum(nil)[:10])
	s, err := hv.Session(ctx, id)
	if errors.Is(err, ErrNotFound) {
		s, err = hv.create(ctx, caller, id, creation(cfg))
		if !errors.Is(err, session.ErrImpossible) {
			return s, err
		}
		var again error // perhaps the same was asked for at the same time, and is done
		if s, again = hv.Session(ctx, id); again != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return s, s.createdWith(ctx, caller, key, cfg)
}

// createdWith returns *Refused with idempotency_conflict if the session was created with other settings,
// and ends what a crash left half done.
func (s *Session) createdWith(ctx context.Context, caller policy.Caller, key string, cfg *session.Config) error {
	if cfg == nil {
		cfg = &session.Config{}
	}
	resolved, err := cfg.Resolved()
	if err != nil {
		return err
	}
	state, err := s.State(ctx)
	if err != nil {
		return err
	}
	asked, err := json.Marshal(resolved)
	if err != nil {
		return fmt.Errorf("comparing settings: %w", err)
	}
	there, err := json.Marshal(state.Config)
	if err != nil {
		return fmt.Errorf("comparing settings: %w", err)
	}
	if !bytes.Equal(asked, there) {
		return &Refused{policy.Refuse(policy.IdempotencyConflict, "idempotency key %q was used for session %s with other settings", key, s.id)}
	}
	if _, bound := s.hv.Named(cfg.Name); cfg.Name != "" && !bound { // the process ended before the name was recorded
		return s.hv.bind(ctx, caller, s, cfg.Name)
	}
	return nil
}

func creation(cfg *session.Config) session.Create {
	if cfg == nil {
		cfg = &session.Config{}
	}
	return session.Create{Config: *cfg}
}

func (hv *Hypervisor) create(ctx context.Context, caller policy.Caller, id string, c session.Create) (*Session, error) {
	cfg := &c.Config
	if err := hv.enter(); err != nil {
		return nil, err
	}
	defer hv.leave()
	if old, held := hv.Named(cfg.Name); held && hv.system.isOpen(old) { // rather than a session that must be ended at once
		return nil, &Refused{policy.Refuse(policy.Forbidden, "%q stands for session %s, which has not ended", cfg.Name, old)}
	}
	s := hv.handle(id)
	out, err := s.submit(ctx, caller, c, nil)
	for errors.Is(err, errForgotten) { // by somebody who looked for the session and found none
		s = hv.handle(id)
		out, err = s.submit(ctx, caller, c, nil)
	}
	if err := refusedOr(out.Decision, err); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.known {
			hv.forget(s)
		}
		var refused *Refused
		if errors.As(err, &refused) {
			return nil, err
		}
		return nil, fmt.Errorf("creating a session: %w", err)
	}
	if err := hv.announce(ctx, id); err != nil {
		s.mu.Lock()
		s.drop() // the next use announces it first
		s.mu.Unlock()
		return nil, fmt.Errorf("creating a session: %w", err)
	}
	if cfg.Name != "" {
		if err := hv.bind(ctx, caller, s, cfg.Name); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// A Refused is the error of a method that has nothing to return where its command was refused.
type Refused struct{ Decision policy.Decision }

// Error returns the code and the reason.
func (r *Refused) Error() string {
	return fmt.Sprintf("refused (%s): %s", r.Decision.Code, r.Decision.Reason)
}

// refusedOr makes an error of a refusal.
func refusedOr(d policy.Decision, err error) error {
	if err == nil && !d.Allowed {
		return &Refused{d}
	}
	return err
}

// command is submit for a caller from outside: it is not let in once Close has begun.
func (s *Session) command(ctx context.Context, caller policy.Caller, c session.Command, stamp func(*session.Env)) (session.Outcome, error) {
	if err := s.hv.enter(); err != nil {
		return session.Outcome{}, err
	}
	defer s.hv.leave()
	return s.submit(ctx, caller, c, stamp)
}

// ID returns the session's id.
func (s *Session) ID() string { return s.id }

// State returns the session as it stands, as a copy.
func (s *Session) State(ctx context.Context) (*session.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	return copyState(s.live.state)
}

func copyState(state *session.State) (*session.State, error) {
	b, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("copying the state: %w", err)
	}
	c := session.NewState(state.ID)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("copying the state: %w", err)
	}
	return c, nil
}

// A Participant is an agent as it joined.
type Participant struct {
	Agent    policy.DID
	Ring     ring.Ring
	SigmaEff ring.Sigma
	History  *session.History // what the session thinks of its receipts; nil: none were presented
}

// Join brings an agent into the session: an operator does, or a participant, who is its parent then. A Sigma in it, which only an
// operator may say, is written to the agent's own stream first, so that the join is decided on it. The error is *Refused where
// the rules say no.
func (s *Session) Join(ctx context.Context, caller policy.Caller, c session.Join) (Participant, error) {
	if _, err := policy.ParseDID(string(c.Agent)); err != nil {
		return Participant{}, fmt.Errorf("joining an agent: %w", err)
	}
	if err := s.hv.enter(); err != nil {
		return Participant{}, err
	}
	defer s.hv.leave()
	if caller.Role == policy.AgentRole {
		if err := s.maySpawn(ctx, c.Agent); err != nil {
			return Participant{}, err
		}
	}
	if caller.Runs() || caller.Role == policy.AgentRole { // nobody else brings an agent
		if err := s.hv.rate(ctx, c.Agent); err != nil {
			return Participant{}, err
		}
	}
	known, err := s.hv.agents.know(ctx, c.Agent)
	if err != nil {
		return Participant{}, err
	}
	stamp := func(e *session.Env) {
		e.Key = key(e, c.Key, c)
		s.live.agents.keep(s.live.state.Participants)
		s.live.agents.watch(c.Agent, known[0])
	}
	c.Proofs = nil
	if c.Sigma != 0 || len(c.Receipts) > 0 {
		// A join that is refused whatever the σ, or that repeats another, must not set it, nor have anybody asked.
		out, err := s.consider(ctx, caller, c, stamp)
		if err := refusedOr(out.Decision, err); err != nil {
			return Participant{}, err
		}
		if out.Repeats != nil {
			return s.Participant(ctx, c.Agent)
		}
		c.Proofs = s.hv.prove(ctx, c.Receipts)
	}
	if c.Sigma != 0 {
		d, err := s.hv.agents.submit(ctx, caller, c.Agent, agent.SetSigma{Sigma: c.Sigma, Source: agent.FromJoin})
		if err := refusedOr(d, err); err != nil {
			return Participant{}, err
		}
	}
	out, err := s.submit(ctx, caller, c, stamp)
	if err := refusedOr(out.Decision, err); err != nil {
		return Participant{}, err
	}
	s.watched(c.Agent)
	if out.Repeats != nil || len(c.Receipts) > 0 {
		return s.Participant(ctx, c.Agent)
	}
	return Participant{Agent: c.Agent, Ring: *out.Ring, SigmaEff: *out.SigmaEff}, nil
}

// maySpawn refuses an agent that has a token of its own for this session: it comes by itself, and is nobody's child. One that was
// brought before has its token by that. It refuses, too, who is known in another role: what an agent did is found by its DID, so a
// child of an operator's name would be shown, and might take back, what the operator did.
func (s *Session) maySpawn(ctx context.Context, did policy.DID) error {
	state, err := s.State(ctx)
	if err != nil {
		return err
	}
	if state.Participants[did] != nil || state.Left[did] != nil {
		return nil // the session knows whose it is
	}
	if did == state.Opener || slices.Contains(s.hv.opts.Operators, did) {
		return &Refused{policy.Refuse(policy.Forbidden, "%s is no agent", did)}
	}
	for _, t := range s.hv.Tokens() {
		id := t.Session
		if t.Alias != "" {
			id, _ = s.hv.Named(t.Alias)
		}
		if t.Subject == did && t.Role != policy.AgentRole {
			return &Refused{policy.Refuse(policy.Forbidden, "%s is no agent: it has a token as %s", did, t.Role)}
		}
		if t.Subject == did && t.Role == policy.AgentRole && id == s.id {
			return &Refused{policy.Refuse(policy.Forbidden, "%s has a token for session %s and comes by itself; an agent brings one that has none", did, s.id)}
		}
	}
	return nil
}

// Participant returns an agent as it stands in the session now, or ErrNotFound.
func (s *Session) Participant(ctx context.Context, did policy.DID) (Participant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.load(ctx); err != nil {
		return Participant{}, err
	}
	p := s.live.state.Participants[did]
	if p == nil {
		return Participant{}, fmt.Errorf("%s in session %s: %w", did, s.id, ErrNotFound)
	}
	env, _, err := s.env(policy.System)
	if err != nil {
		return Participant{}, err
	}
	r, sigma := s.live.state.RingOf(env, did)
	return Participant{did, r, sigma, p.History}, nil
}

// Leave takes an agent out of the session: itself, or an operator does it. The error is *Refused where the rules say no.
func (s *Session) Leave(ctx context.Context, caller policy.Caller, c session.Leave) error {
	out, err := s.command(ctx, caller, c, nil)
	return refusedOr(out.Decision, err)
}

// Activate lets the participants act. An operator's. The error is *Refused where the rules say no.
func (s *Session) Activate(ctx context.Context, caller policy.Caller) error {
	out, err := s.command(ctx, caller, session.Activate{}, nil)
	return refusedOr(out.Decision, err)
}

// Grant lets one refused call pass, once. An approver's or operator's.
func (s *Session) Grant(ctx context.Context, caller policy.Caller, c session.Grant) (policy.Decision, error) {
	out, err := s.command(ctx, caller, c, nil)
	return out.Decision, err
}

// Deny closes an approval: the same call is refused until it would have expired. An approver's or operator's.
func (s *Session) Deny(ctx context.Context, caller policy.Caller, c session.Deny) (policy.Decision, error) {
	out, err := s.command(ctx, caller, c, nil)
	return out.Decision, err
}

// Vote is an elector's voice on an approval.
func (s *Session) Vote(ctx context.Context, caller policy.Caller, c session.Vote) (policy.Decision, error) {
	out, err := s.command(ctx, caller, c, nil)
	return out.Decision, err
}

// Terminate ends the session and returns once its summary is recorded: running calls finish, or are cancelled after a grace
// time. An operator's. The error is *Refused where the rules say no.
func (s *Session) Terminate(ctx context.Context, caller policy.Caller) (Summary, error) {
	return s.End(ctx, caller, session.Terminate{})
}

// End is Terminate with a reason for the record.
func (s *Session) End(ctx context.Context, caller policy.Caller, c session.Terminate) (Summary, error) {
	out, err := s.command(ctx, caller, c, nil)
	if err := refusedOr(out.Decision, err); err != nil {
		return Summary{}, err
	}
	s.tick(ctx) // the end itself, if nothing runs
	if err := s.hv.await(ctx, s.sealed); err != nil {
		return Summary{}, fmt.Errorf("session %s is ending; waiting for its end: %w", s.id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum, nil
}

// key stamps a command's idempotency key with the digest of its content under the session's key.
func key(e *session.Env, text string, content any) session.Key {
	if text == "" {
		return session.Key{}
	}
	b, err := json.Marshal(content)
	if err != nil {
		panic("hypervisor: a command does not encode: " + err.Error())
	}
	mac := hmac.New(sha256.New, e.Secret[:])
	fmt.Fprintf(mac, "%T ", content)
	mac.Write(b)
	return session.Key{Text: text, Digest: audit.Hash(mac.Sum(nil))}
}
