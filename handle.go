package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"weak"

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// handle.go: one session has one handle, and few have their state in memory.

// handle returns the one handle of an id, without asking whether there is such a session.
func (hv *Hypervisor) handle(id string) *Session {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	if s := hv.sessions[id]; s != nil {
		return s
	}
	if s := hv.resting[id].Value(); s != nil {
		hv.wake(s)
		return s
	}
	s := &Session{hv: hv, id: id, sealed: make(chan struct{})}
	runtime.AddCleanup(s, hv.collected, id)
	hv.sessions[id] = s
	return s
}

// rest leaves the handle to those who hold it: an evicted session costs next to nothing. The handle stays where it knows what
// no record says. The lock is held.
func (s *Session) rest() {
	if len(s.tools) > 0 || len(s.calls) > 0 || s.lost || s.recovered && s.hv.clockBehind || s.reviving.Load() {
		return
	}
	s.forgetLate()
	if s.hv.opts.Choose != nil {
		return // when the garbage collector comes does not repeat, and a simulation does
	}
	s.hv.mu.Lock()
	defer s.hv.mu.Unlock()
	if s.hv.sessions[s.id] == s {
		delete(s.hv.sessions, s.id)
		s.hv.resting[s.id] = weak.Make(s)
	}
}

// wake takes a resting handle back, since it is used again. hv.mu is held.
func (hv *Hypervisor) wake(s *Session) {
	if hv.resting[s.id].Value() == s {
		delete(hv.resting, s.id)
		hv.sessions[s.id] = s
	}
}

// collected forgets a resting handle that nobody held any more. The garbage collector calls it.
func (hv *Hypervisor) collected(id string) {
	hv.mu.Lock()
	defer hv.mu.Unlock()
	if hv.resting[id].Value() == nil {
		delete(hv.resting, id)
	}
	if len(hv.resting) == 0 {
		hv.resting = map[string]weak.Pointer[Session]{} // an empty map keeps the room of its best days
	}
}

// Session returns the handle of a session, or ErrNotFound.
func (hv *Hypervisor) Session(ctx context.Context, id string) (*Session, error) {
	if !session.ValidID(id) {
		return nil, fmt.Errorf("session %q: %w", id, ErrNotFound)
	}
	for {
		s := hv.handle(id)
		err := s.find(ctx)
		switch {
		case errors.Is(err, errForgotten):
			continue
		case err != nil:
			return nil, err
		}
		return s, nil
	}
}

// find loads the session; ErrNotFound says that there is none, errForgotten that another handle must be asked.
func (s *Session) find(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return errForgotten
	}
	err := s.load(ctx)
	if err == nil && s.live.state.Lifecycle == session.Absent {
		err = fmt.Errorf("session %q: %w", s.id, ErrNotFound)
	}
	if err != nil && !s.known {
		s.hv.forget(s)
	}
	return err
}

// errForgotten is returned by a handle that was forgotten while its caller waited for it, before there was a session.
var errForgotten = errors.New("the handle was let go")

// forget lets a handle go that nobody else was given, or whose session is archived: nothing is written through it any more.
// Its lock is held.
func (hv *Hypervisor) forget(s *Session) {
	s.drop()
	if len(s.calls) > 0 {
		return // the last of them to end asks again
	}
	s.gone = true
	s.forgetLate()
	hv.mu.Lock()
	defer hv.mu.Unlock()
	if hv.sessions[s.id] == s {
		delete(hv.sessions, s.id)
	}
}

// drop lets the state go; the next use reads it again. The lock is held.
func (s *Session) drop() {
	if s.live == nil {
		return
	}
	if s.live.st.lane.Err() != nil && s.live.state.Config.Consistency == session.Eventual {
		s.lost = true
	}
	s.live = nil
	s.hv.mu.Lock()
	delete(s.hv.loaded, s)
	s.hv.mu.Unlock()
}

// makeRoom lets go of idle sessions' states if too many are loaded: of one for the one that comes, and of a second while a time
// in which all were busy has left more than there should be. s is being loaded, its lock is held.
func (hv *Hypervisor) makeRoom(ctx context.Context, s *Session) {
	for range 2 {
		idle := hv.longestIdle(s)
		if idle == nil {
			return
		}
		idle.letGo(ctx)
		idle.mu.Unlock()
	}
}

// longestIdle returns, with its lock held, a session that can be let go; nil if there is none or no need.
func (hv *Hypervisor) longestIdle(s *Session) (oldest *Session) {
	const (
		sample = 16 // the longest idle of so many: near enough to the longest of all
		looks  = 64 // at so many, busy ones too
	)
	hv.mu.Lock()
	defer hv.mu.Unlock()
	if len(hv.loaded) < hv.opts.MaxLoaded {
		return nil
	}
	idle, looked := 0, 0
	for other := range hv.loaded { // in random order
		if looked++; looked > looks || idle == sample {
			break
		}
		if other == s || !other.mu.TryLock() {
			continue
		}
		if !other.idle() {
			other.mu.Unlock()
			continue
		}
		if idle++; oldest != nil && !other.longerIdle(oldest) {
			other.mu.Unlock()
			continue
		}
		if oldest != nil {
			oldest.mu.Unlock()
		}
		oldest = other
	}
	return oldest
}

// longerIdle reports whether s was used before other; of two that were used at once, one is. Both locks are held.
func (s *Session) longerIdle(other *Session) bool {
	return s.used.Before(other.used) || s.used.Equal(other.used) && s.id < other.id
}

// letGo drops an idle session's state, and the handle too where nothing will be written any more. The lock is held.
func (s *Session) letGo(ctx context.Context) {
	l := s.live
	if l.st.seq > l.snapshot && l.st.lane.Err() == nil {
		s.saveSnapshot(ctx)
	}
	if l.state.Lifecycle == session.Archived {
		s.hv.forget(s)
		return
	}
	s.drop()
	s.rest()
}

// idle reports whether nothing would be lost if the state were let go, and nothing is looked for on its behalf. The lock is held.
func (s *Session) idle() bool {
	if s.live == nil || len(s.calls) > 0 || s.live.st.pending.Load() > 0 || session.Attends(s.live.state) {
		return false
	}
	for _, t := range s.live.tallies {
		if !t.NextFlush().IsZero() {
			return false
		}
	}
	return true
}

// putAway writes what only memory holds, at the end of the process.
func (s *Session) putAway(ctx context.Context) error {
	s.mu.Lock()
	loaded := s.live != nil && s.live.state.Lifecycle != session.Absent
	var owed []func(context.Context)
	for _, c := range s.calls {
		if c.owed != nil {
			owed = append(owed, c.owed)
		}
	}
	s.mu.Unlock()
	for _, settle := range owed {
		settle(ctx)
	}
	if !loaded && len(owed) == 0 {
		return nil
	}
	if _, err := s.submit(ctx, policy.System, session.Tick{All: true}, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil && s.live.st.seq > s.live.snapshot {
		s.saveSnapshot(ctx)
	}
	return nil
}
