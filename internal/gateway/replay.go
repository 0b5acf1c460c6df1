package gateway

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Bounds of what is kept of the streams to a client with a session, so that it can have again what it missed.
const (
	replayFor      = 2 * time.Minute // after it was sent
	replayBytes    = 1 << 20         // of one client's session
	replayAllBytes = 64 << 20        // of all of them together
	replayEvents   = 1024            // of one client's session
	replayStreams  = 64              // of one client's session; an older one cannot be resumed any more
)

var errNotKept = errors.New("the stream cannot be resumed from there: what it said is not kept any more")

// A replay keeps what was sent to clients with sessions for a while. It is a seat's own, as the sessions are, so what it gives
// out went to that agent in that session. It is an mcp.EventStore, safe for concurrent use.
type replay struct {
	clock Clock
	all   *replayTotal

	mu       sync.Mutex
	sessions map[string]*replaySession
}

// A replayTotal is what all replays of a hub keep together.
type replayTotal struct {
	mu    sync.Mutex
	bytes int
}

func (t *replayTotal) reserve(n int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bytes+n > replayAllBytes {
		return false
	}
	t.bytes += n
	return true
}

func (t *replayTotal) release(n int) {
	t.mu.Lock()
	t.bytes -= n
	t.mu.Unlock()
}

// A replaySession is one client's.
type replaySession struct {
	streams map[string]*replayStream
	opened  []string // of streams, in order, but the one that belongs to no request
	events  []replayEvent
	bytes   int
}

// A replayStream is what is left of one stream.
type replayStream struct {
	next int // the place of the event that is said next
	kept int // the place from which on every event is kept
}

type replayEvent struct {
	stream *replayStream
	at     int
	data   unique.Handle[string] // many clients are answered the same when they connect: it is held once
	sent   time.Time
}

func newReplay(clock Clock, all *replayTotal) *replay {
	return &replay{clock: clock, all: all, sessions: map[string]*replaySession{}}
}

var _ mcp.EventStore = (*replay)(nil)

// Open begins a stream.
func (r *replay) Open(_ context.Context, session, stream string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[session]
	if s == nil {
		s = &replaySession{streams: map[string]*replayStream{}}
		r.sessions[session] = s
	}
	if s.streams[stream] != nil {
		return nil
	}
	s.streams[stream] = &replayStream{}
	if stream == "" {
		return nil
	}
	if s.opened = append(s.opened, stream); len(s.opened) > replayStreams {
		delete(s.streams, s.opened[0])
		s.opened = slices.Delete(s.opened, 0, 1)
	}
	return nil
}

// Append keeps an event, if there is room for it once older ones have made some. An error only says that it is not kept.
func (r *replay) Append(_ context.Context, session, stream string, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[session]
	if s == nil || s.streams[stream] == nil {
		return errNotKept
	}
	now := r.clock.Now()
	r.expire(s, now)
	at := s.streams[stream]
	place := at.next
	at.next++
	for len(data) <= replayBytes && len(s.events) > 0 && (s.bytes+len(data) > replayBytes || len(s.events) >= replayEvents) {
		r.drop(s)
	}
	if len(data) > replayBytes || !r.all.reserve(len(data)) {
		at.kept = at.next
		return errNotKept
	}
	s.events = append(s.events, replayEvent{at, place, unique.Make(string(data)), now})
	s.bytes += len(data)
	return nil
}

// After returns what a stream said after a place in it.
func (r *replay) After(_ context.Context, session, stream string, index int) iter.Seq2[[]byte, error] {
	out, err := r.after(session, stream, index)
	return func(yield func([]byte, error) bool) {
		if err != nil {
			yield(nil, err)
			return
		}
		for _, data := range out {
			if !yield(data, nil) {
				return
			}
		}
	}
}

func (r *replay) after(session, stream string, index int) (out [][]byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[session]
	if s == nil || s.streams[stream] == nil {
		return nil, errNotKept
	}
	r.expire(s, r.clock.Now())
	at := s.streams[stream]
	if stream == "" && index < 0 { // it is opened, and not resumed: its events are counted anew, as the SDK does
		at.next, at.kept = 0, 0
		for i := range s.events {
			if e := &s.events[i]; e.stream == at {
				e.at = at.next
				at.next++
			}
		}
	}
	if index >= at.next || index+1 < at.kept {
		return nil, errNotKept
	}
	for _, e := range s.events {
		if e.stream == at && e.at > index {
			out = append(out, []byte(e.data.Value()))
		}
	}
	return out, nil
}

// SessionClosed forgets a client's session.
func (r *replay) SessionClosed(_ context.Context, session string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[session]; s != nil {
		r.all.release(s.bytes)
		delete(r.sessions, session)
	}
	return nil
}

// sweep forgets what was sent long ago.
func (r *replay) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		r.expire(s, now)
		if len(s.events) == 0 {
			s.events = nil // with the room it had
		}
	}
}

// expire drops what is too old. The caller holds mu.
func (r *replay) expire(s *replaySession, now time.Time) {
	for len(s.events) > 0 && now.Sub(s.events[0].sent) >= replayFor {
		r.drop(s)
	}
}

// drop drops a session's oldest event. The caller holds mu.
func (r *replay) drop(s *replaySession) {
	e := s.events[0]
	s.events[0] = replayEvent{}
	s.events = s.events[1:]
	e.stream.kept = max(e.stream.kept, e.at+1)
	n := len(e.data.Value())
	s.bytes -= n
	r.all.release(n)
}
