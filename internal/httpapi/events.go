package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/api"
	"github.com/agenthypervisor/hypervisor/audit"
	"github.com/agenthypervisor/hypervisor/policy"
)

// events.go: the log as it grows, as server-sent events (WHATWG HTML §9.2). A message's id is POSITION.N, the Nth event of the
// record at that position, so that a follower that was cut off within a record resumes within it.

const (
	maxStreams     = 256 // of events, open at once
	streamBuffer   = 64  // events read ahead of a slow follower
	heartbeatEvery = 15 * time.Second
	// writePatience is how long a follower may leave what was sent unread before it is cut off.
	writePatience = 30 * time.Second
)

// A filter says which events are wanted. The zero filter wants all.
type filter struct {
	session, agent string
	types          []string
}

// A place is where in the log a follower is: behind the Nth event of the record at a position.
type place struct{ position, n uint64 }

func (p place) String() string { return fmt.Sprintf("%d.%d", p.position, p.n) }

// parsePlace reads POSITION.N, or POSITION for behind all of that record.
func parsePlace(text string) (p place, err error) {
	position, n, part := strings.Cut(text, ".")
	p.position, err = strconv.ParseUint(position, 10, 63)
	if err == nil && part {
		p.n, err = strconv.ParseUint(n, 10, 32)
	} else {
		p.n = 1 << 32
	}
	if err != nil {
		return p, malformed("Last-Event-ID: want the id of a message, got %q", text)
	}
	return p, nil
}

func (a *API) events(w http.ResponseWriter, r *http.Request) {
	caller, in, err := decode[none](a, w, r, []string{"session", "agent", "type"})
	if err == nil {
		err = mayRead(caller)
	}
	var s *hypervisor.Session
	if text := in.query.text("session"); err == nil && text != "" {
		s, err = a.named(r.Context(), text)
	}
	var from place
	if id := r.Header.Get("Last-Event-ID"); err == nil && id != "" {
		from, err = parsePlace(id)
	} else if err == nil && s != nil {
		from, err = beginning(r.Context(), s)
	}
	if err != nil {
		a.reply(w, r, nil, err)
		return
	}
	select {
	case a.streams <- struct{}{}:
		defer func() { <-a.streams }()
	default:
		a.reply(w, r, nil, fmt.Errorf("%w: %d streams of events are open", hypervisor.ErrOverloaded, maxStreams))
		return
	}
	f := filter{agent: in.query.text("agent")}
	if s != nil {
		f.session = s.ID()
	}
	if types := in.query.text("type"); types != "" {
		f.types = strings.Split(types, ",")
	}
	if err := a.stream(w, r, f, from); err != nil {
		a.note(r, err)
	}
}

// beginning returns the place before a session's first record.
func beginning(ctx context.Context, s *hypervisor.Session) (place, error) {
	for rec, err := range s.Records(ctx, 1) {
		return place{position: rec.Position}, err
	}
	return place{}, nil
}

// stream sends what the filter wants until the follower goes, its token ends, or the hypervisor does.
func (a *API) stream(w http.ResponseWriter, r *http.Request, f filter, at place) error {
	ctx, cancel := context.WithCancel(r.Context())
	messages := make(chan message, streamBuffer)
	var reader sync.WaitGroup
	reader.Go(func() { a.follow(ctx, at, messages) })
	defer reader.Wait()
	defer cancel()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }()
	send := func(format string, args ...any) error {
		_ = out.SetWriteDeadline(time.Now().Add(writePatience)) // a recorder in a test has none
		_, err := fmt.Fprintf(w, format, args...)
		return errors.Join(err, out.Flush())
	}
	if send(": events\n\n") != nil {
		return nil
	}
	heartbeat := time.NewTicker(heartbeatEvery)
	defer heartbeat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-heartbeat.C:
			if _, err := a.identify(r); err != nil {
				return nil // its token has ended
			}
			err = send("id: %s\n: alive\n\n", at) // the id counts without data, so a filter's long silence is not read again
		case m, ok := <-messages:
			switch {
			case !ok:
				return nil
			case m.err != nil:
				return m.err
			}
			if at = m.at; f.wants(m.event) {
				err = send("id: %s\ndata: %s\n\n", at, encode(m.event))
			}
		}
		if err != nil {
			return nil // the follower is gone
		}
	}
}

// A message is one event, and where the follower is behind it.
type message struct {
	at    place
	event api.Event
	err   error
}

// follow hands over the log's events behind a place until ctx ends, and closes the channel.
func (a *API) follow(ctx context.Context, from place, to chan<- message) {
	defer close(to)
	var at place
	for e, err := range a.hv.Follow(ctx, max(from.position, 1)-1) {
		m := message{err: err}
		if err == nil {
			if e.Position != at.position {
				at = place{position: e.Position}
			}
			at.n++
			if at.position == from.position && at.n <= from.n {
				continue
			}
			m.at, m.event = at, eventView(e)
		}
		select {
		case to <- m:
		case <-ctx.Done():
			return
		}
	}
}

func eventView(e hypervisor.Event) api.Event {
	out := api.Event{Position: e.Position, Stream: e.Stream, Seq: e.Seq, Time: e.Time, Caller: api.Caller(e.Caller), Trace: e.Trace}
	if v, ok := e.Value.(interface{ Append([]byte) []byte }); ok {
		out.Event = v.Append(nil)
	}
	out.Type = memberOf(out.Event, "type")
	return out
}

// memberOf returns an event's member that is a text; empty: it has none.
func memberOf(event json.RawMessage, name string) string {
	var members map[string]json.RawMessage
	var text string
	if json.Unmarshal(event, &members) != nil || json.Unmarshal(members[name], &text) != nil {
		return ""
	}
	return text
}

func (f filter) wants(e api.Event) bool {
	if f.session != "" && e.Stream != audit.SessionPrefix+f.session {
		return false
	}
	if len(f.types) > 0 && !slices.Contains(f.types, e.Type) {
		return false
	}
	return f.agent == "" || e.Stream == audit.AgentPrefix+f.agent || e.Caller.DID == f.agent && e.Caller.Role == policy.AgentRole.String() ||
		memberOf(e.Event, "agent") == f.agent
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("httpapi: an event does not encode: " + err.Error())
	}
	return b
}
