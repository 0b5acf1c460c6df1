package hypervisor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/agenthypervisor/hypervisor/internal/killfile"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// kill.go: the kill switch (SPEC §7): what is stopped now. It waits for nobody who waits for the store: a kill is swapped in,
// what runs is cancelled, and the kill file is written; its records follow (killed.go).

// errKilled is why a call was cancelled.
var errKilled = errors.New("it was killed")

// A killSwitch is the kills in force, and the calls they would stop. Safe for concurrent use.
type killSwitch struct {
	hv  *Hypervisor
	set atomic.Pointer[policy.Kills]

	mu      sync.Mutex // guards what follows, and changes of set; nothing is waited for under it
	version uint64     // of set
	owed    map[string]*owedKill
	running map[*call]struct{} // calls that have not ended, and looks, which have no tool

	writing sync.Mutex // guards what follows
	file    *killfile.File
	written uint64 // the version in file

	changed signal
}

// An owedKill is a kill whose records are not known to be in their streams.
type owedKill struct {
	kill   policy.Kill
	caller policy.Caller
	tried  chan struct{} // closed when they are, or cannot be for now, or when there are to be none
	once   sync.Once     // closes tried

	// Guarded by the switch's mu; valid once the kill is owed no more.
	refused           *policy.Decision // why there are none
	tokens, approvals int              // that it has ended
}

func newKillSwitch(hv *Hypervisor) *killSwitch {
	ks := &killSwitch{hv: hv, owed: map[string]*owedKill{}, running: map[*call]struct{}{}}
	ks.set.Store(&policy.Kills{})
	return ks
}

func (ks *killSwitch) current() policy.Kills { return *ks.set.Load() }

// of returns the kill that stops an agent in a session, and whether there is one.
func (ks *killSwitch) of(session string, agent policy.DID) (policy.Kill, bool) {
	return ks.current().Of(session, agent)
}

// ofAny is of for an agent and those who brought it: a killed parent's children are killed (SPEC §2).
func (ks *killSwitch) ofAny(session string, line []policy.DID) (policy.Kill, bool) {
	if len(line) == 0 {
		return ks.of(session, "")
	}
	for _, did := range line {
		if k, killed := ks.of(session, did); killed {
			return k, true
		}
	}
	return policy.Kill{}, false
}

// swap puts another set in force. mu is held.
func (ks *killSwitch) swap(next policy.Kills) {
	ks.set.Store(&next)
	ks.version++
}

// watch notes a call that may go out. Whoever looks for the calls of a kill in force finds it, or the call finds the kill
// when it is dispatched.
func (ks *killSwitch) watch(c *call) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	ks.running[c] = struct{}{}
}

// end notes that a call's function has returned or will not be called; the first word stays.
func (ks *killSwitch) end(c *call, became string) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if _, runs := ks.running[c]; !runs {
		return
	}
	delete(ks.running, c)
	c.became = became
	if c.ended != nil {
		close(c.ended)
	}
}

// cancel cancels the calls that a scope takes in, and returns them in the order they were admitted.
func (ks *killSwitch) cancel(scope policy.Scope) []*call {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	var calls []*call
	for c := range ks.running {
		if scope.All || (scope.Session == "" || scope.Session == c.session) && (scope.Agent == "" || slices.Contains(c.line, scope.Agent)) {
			if c.ended == nil {
				c.ended = make(chan struct{})
			}
			c.cancel(errKilled)
			calls = append(calls, c)
		}
	}
	slices.SortFunc(calls, func(a, b *call) int {
		return strings.Compare(fmt.Sprintf("%s %020d", a.session, a.seq), fmt.Sprintf("%s %020d", b.session, b.seq))
	})
	return calls
}

// stop puts a kill in force, in memory and then in the file. It returns the kill of that scope, which may be an earlier one,
// what is owed of it (nil: nothing any more) and the calls that were cancelled. With an error the kill is in force in this
// process, and whether it would be after a crash is not known.
func (ks *killSwitch) stop(k policy.Kill, caller policy.Caller) (policy.Kill, *owedKill, []*call, error) {
	ks.mu.Lock()
	old, there := ks.current().In(k.Scope)
	if there {
		k = old
	} else {
		ks.swap(ks.current().With(k))
		ks.owed[k.ID] = &owedKill{kill: k, caller: caller, tried: make(chan struct{})}
	}
	o := ks.owed[k.ID]
	ks.mu.Unlock()
	calls := ks.cancel(k.Scope)
	err := ks.save()
	if !there {
		ks.pursue(o)
	}
	return k, o, calls, err
}

// learn puts a kill in force that a stream tells of.
func (ks *killSwitch) learn(k policy.Kill) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if _, there := ks.current().In(k.Scope); !there {
		ks.swap(ks.current().With(k))
	}
}

// drop takes kills out of force, and out of the file. A file that cannot be written keeps them: the next start finds in the
// streams that they are over.
func (ks *killSwitch) drop(gone func(policy.Kill) bool) {
	ks.mu.Lock()
	any := ks.current().Any(gone)
	_, before := ks.current().In(policy.Scope{All: true})
	if any {
		ks.swap(ks.current().Without(gone))
	}
	_, after := ks.current().In(policy.Scope{All: true})
	ks.mu.Unlock()
	if !any {
		return
	}
	ks.changed.pass()
	if before && !after {
		ks.hv.offer(ks.hv.goOn)
	}
	if err := ks.save(); err != nil {
		ks.hv.opts.Logger.Warn("kills that are over stay in the kill file for now", "error", err)
	}
}

// goOn lets the steps of sagas go on that waited for the end of a kill of everything.
func (hv *Hypervisor) goOn(ctx context.Context) {
	for _, s := range hv.inMemory((*Session).attends) {
		s.tick(ctx)
	}
}

// attends reports whether the session is in memory, and a step in it waits for what happens elsewhere.
func (s *Session) attends() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live != nil && session.Attends(s.live.state)
}

// save makes the kills in force durable: it returns nil once the file holds them as they are now or were later.
func (ks *killSwitch) save() error {
	if ks.file == nil {
		return nil
	}
	ks.mu.Lock()
	least := ks.version
	ks.mu.Unlock()
	ks.writing.Lock()
	defer ks.writing.Unlock()
	if ks.written >= least {
		return nil // somebody who came later has written it
	}
	ks.mu.Lock()
	kills, version := ks.current().All(), ks.version
	owed := make(map[string]bool, len(ks.owed))
	for id := range ks.owed {
		owed[id] = true
	}
	ks.mu.Unlock()
	err := ks.file.Write(kills)
	for errors.Is(err, killfile.ErrTooMany) {
		fewer := withoutOldest(kills, owed)
		if len(fewer) == len(kills) {
			break
		}
		kills = fewer
		err = ks.file.Write(kills)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStoreUnavailable, err)
	}
	ks.written = version
	return nil
}

// withoutOldest leaves out some of the oldest kills that the log tells of, to make room; those of everything stay.
func withoutOldest(kills []policy.Kill, owed map[string]bool) []policy.Kill {
	spare := len(kills)/8 + 1
	return slices.DeleteFunc(slices.Clone(kills), func(k policy.Kill) bool {
		if owed[k.ID] || k.All || spare == 0 {
			return false
		}
		spare--
		return true
	})
}

// open reads the kill file in dir. What it cannot believe stops everything.
func (ks *killSwitch) open(dir string) error {
	file, kills, err := killfile.Open(dir)
	if err != nil && !errors.Is(err, killfile.ErrDamaged) {
		return err
	}
	ks.file = file
	if err != nil {
		ks.hv.opts.Logger.Error("everything is stopped until an operator lifts it with 'kill --lift --all': kills may be missing from the kill file", "error", err)
		all := policy.Kill{Scope: policy.Scope{All: true}, Reason: policy.Manual, Note: err.Error(), By: policy.System.DID, At: ks.hv.now(ks.hv.opts.Clock.Now())}
		if all.ID, err = ks.hv.newKillID(); err != nil {
			return err
		}
		kills = []policy.Kill{all}
	}
	ks.mu.Lock()
	defer ks.mu.Unlock()
	for _, k := range kills {
		ks.swap(ks.current().With(k))
		ks.owed[k.ID] = &owedKill{kill: k, caller: policy.System.Through("kill file"), tried: make(chan struct{})}
	}
	return nil
}

// begin makes the file agree with what is in force, and goes on with the records that are owed.
func (ks *killSwitch) begin() error {
	if err := ks.save(); err != nil {
		return err
	}
	ks.mu.Lock()
	owed := slices.SortedFunc(maps.Values(ks.owed), func(a, b *owedKill) int { return strings.Compare(a.kill.ID, b.kill.ID) })
	ks.mu.Unlock()
	for _, o := range owed {
		ks.pursue(o)
	}
	return nil
}

func (ks *killSwitch) close() error {
	if ks.file == nil {
		return nil
	}
	ks.writing.Lock()
	defer ks.writing.Unlock()
	return ks.file.Close()
}

func (hv *Hypervisor) newKillID() (string, error) {
	var b [8]byte
	if err := hv.random(b[:]); err != nil {
		return "", err
	}
	return "kil-" + hex.EncodeToString(b[:]), nil
}

// soon returns a context that ends after killPatience, and what ends it before.
func (hv *Hypervisor) soon(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	if hv.opts.Stepped {
		return ctx, cancel // await gives up when nothing is left to do
	}
	over := hv.opts.Clock.After(killPatience)
	var wait sync.WaitGroup
	wait.Go(func() {
		select {
		case <-over:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(); wait.Wait() }
}
