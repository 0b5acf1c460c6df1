package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor/agent"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// reports.go: a reputation service is told what agents' conduct has brought them (SPEC §9 "supply and receive scores"). Their streams
// owe it; it is told at least once, one entry after the other, by the same id each time. While the service does not take it the
// entries stay owed, here and over any restart, as a stretch of their stream.

// A Reporter tells a service of entries in agents' ledgers.
type Reporter interface {
	// Report returns once the service has the notice, or has had it before: taken; or has read it and does not want it: not taken.
	// After an error it may have it or not, and is told again. Implementations bound how long they take.
	Report(ctx context.Context, n agent.Notice) (taken bool, err error)
}

const (
	reportBatch     = 64 // notices beside one record that they were told
	reportRetry     = time.Second
	reportRetryMost = 5 * time.Minute
)

// A reporting is the one that tells: one notice at a time, so that a service that is slow keeps one call waiting and no more.
type reporting struct {
	hv *Hypervisor

	mu      sync.Mutex
	to      Reporter // nil: nobody is told
	queue   []policy.DID
	queued  map[policy.DID]struct{} // the same
	pending bool                    // a step is offered, under way, or waits for its time
	turn    int                     // one more with each SetReporter: steps of an earlier one are over
	failed  int                     // notices that were not answered for, one after the other
}

// SetReporter has a service told, from now on, what agents' conduct brings them, and first what nobody was told of yet. Nil: nobody
// is told.
func (hv *Hypervisor) SetReporter(r Reporter) {
	p := hv.reports
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to, p.pending, p.failed = r, false, 0
	p.turn++
	if r == nil {
		p.queue, p.queued = nil, map[policy.DID]struct{}{}
		return
	}
	turn := p.turn
	hv.offer(func(ctx context.Context) { p.find(ctx, turn) })
}

// find queues the agents whose streams owe something, of this process and of earlier ones.
func (p *reporting) find(ctx context.Context, turn int) {
	for head, err := range p.hv.store.Heads(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				p.hv.opts.Logger.Warn("what reputation services are yet to be told could not be read; it is tried again", "error", err)
				p.hv.later(settleRetry, func(ctx context.Context) { p.find(ctx, turn) })
			}
			return
		}
		if did, ok := strings.CutPrefix(head.Stream, audit.AgentPrefix); ok && head.Owes {
			p.owe(policy.DID(did), turn)
		}
	}
}

// anyTurn is given to owe by who does not care whose turn it is.
const anyTurn = -1

// owe has an agent's entries told. Nothing is kept of it while nobody is told.
func (p *reporting) owe(did policy.DID, turn int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to == nil || turn != anyTurn && turn != p.turn {
		return
	}
	p.enqueue(did)
	p.next()
}

func (p *reporting) enqueue(did policy.DID) {
	if _, there := p.queued[did]; !there {
		p.queued[did] = struct{}{}
		p.queue = append(p.queue, did)
	}
}

// next offers a step unless one is pending. The lock is held.
func (p *reporting) next() {
	if turn := p.turn; !p.pending && len(p.queue) > 0 {
		p.pending = true
		p.hv.offer(func(ctx context.Context) { p.step(ctx, turn) })
	}
}

// step tells some entries of the agent that has waited longest. One whose entries are not taken goes to the end.
func (p *reporting) step(ctx context.Context, turn int) {
	p.mu.Lock()
	if turn != p.turn || len(p.queue) == 0 {
		p.mu.Unlock()
		return
	}
	to, did := p.to, p.queue[0]
	p.queue = p.queue[1:]
	delete(p.queued, did)
	p.mu.Unlock()

	err := p.tell(ctx, to, did)

	p.mu.Lock()
	defer p.mu.Unlock()
	if turn != p.turn {
		return // who is told now has looked at the heads, or will
	}
	if err == nil {
		if p.failed > 0 {
			p.hv.opts.Logger.Info("the reputation service takes reports again")
		}
		p.pending, p.failed = false, 0
		p.next()
		return
	}
	if p.hv.closing.Load() {
		return // it is owed to the next process
	}
	p.enqueue(did)
	wait := min(reportRetry<<min(p.failed, 16), reportRetryMost)
	if p.failed == 0 {
		p.hv.opts.Logger.Warn("a reputation service could not be told what an agent did; it stays owed, and is tried again", "agent", did, "error", err)
	}
	p.failed++
	p.hv.later(wait, func(ctx context.Context) { p.step(ctx, turn) })
}

// tell tells of an agent's entries, in their order, and records how far it came: what is owed behind that is queued by the record.
// If we crash behind a notice and before the record it is told again, by the same id.
func (p *reporting) tell(ctx context.Context, to Reporter, did policy.DID) error {
	notices, err := p.untold(ctx, did)
	var told agent.Noticed
	for i := 0; i < len(notices) && err == nil && !told.Refused; i++ {
		var taken bool
		if taken, err = to.Report(ctx, notices[i].Notice); err == nil {
			told = agent.Noticed{Through: notices[i].seq, Refused: !taken}
		}
	}
	if told.Through == 0 {
		return err
	}
	if told.Refused {
		p.hv.opts.Logger.Warn("a reputation service does not take a report, and is not told it again", "agent", did, "record", told.Through)
	}
	_, failed := p.hv.agents.submit(ctx, policy.System.Through("executor"), did, told)
	return errors.Join(err, failed)
}

// An untoldEntry is a notice with the number of its record.
type untoldEntry struct {
	agent.Notice
	seq uint64
}

// untold returns what a service is to be told next of an agent.
func (p *reporting) untold(ctx context.Context, did policy.DID) (notices []untoldEntry, err error) {
	h := p.hv.agents.handle(did)
	h.mu.Lock()
	err = p.hv.agents.load(ctx, h, did)
	var owed agent.Stretch
	if err == nil {
		owed = h.state.Untold
	}
	h.mu.Unlock()
	if err != nil || owed.First == 0 {
		return nil, err
	}
	for r, err := range p.hv.read(ctx, audit.AgentPrefix+string(did), owed.First) {
		if err != nil {
			return nil, err
		}
		if r.Seq > owed.Last || len(notices) == reportBatch {
			break
		}
		events, err := agent.ParseEvents(r.Events)
		if err != nil {
			return nil, fmt.Errorf("%s, record %d: %w", r.Stream, r.Seq, err)
		}
		for _, e := range events {
			if m, ok := e.(agent.Moved); ok && m.Kind.Notable() {
				notices = append(notices, untoldEntry{agent.Notice{ID: r.Leaf, Agent: did, Time: r.Time, Kind: m.Kind, Session: m.Session,
					Sigma: m.Sigma, Share: m.Share, Severity: m.Severity, Lost: m.Lost, Cause: m.Cause}, r.Seq})
			}
		}
	}
	return notices, nil
}
