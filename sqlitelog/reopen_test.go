package sqlitelog

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor/eventlog"
	"github.com/agenthypervisor/hypervisor/eventlogtest"
)

// After an error that leaves it open what is on the disk, nothing is believed before every head was compared. What was
// acknowledged as durable and is not there, or is another, is damage: the store says so, to everyone, and does not go on.
func TestReopeningFindsWhatWasLost(t *testing.T) {
	for _, c := range []struct{ name, lose, want string }{
		{"the newest record", "DELETE FROM records WHERE id = 9", "was acknowledged and is gone"},
		{"another record of the stream", "UPDATE records SET hash = zeroblob(32) WHERE id = 9", "is not record 3 of system as acknowledged"},
		{"a record behind the newest", "DELETE FROM records WHERE id = 5", "row 6 follows row 4"},
		{"a record's place", "UPDATE records SET seq = 7 WHERE id = 9", "is record 7 of system behind row"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir).(*Store)
			fill(t, s, 9)
			script(t, filepath.Join(dir, fileName), c.lose)
			doubt(s)
			for range 2 {
				err := s.Append(t.Context(), new(eventlogtest.Stream).Upto(1))[0]
				if !errors.Is(err, eventlog.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want ErrCorrupt that says %q", err, c.want)
				}
			}
			if err := s.Close(); !errors.Is(err, eventlog.ErrCorrupt) {
				t.Errorf("closing: %v, want ErrCorrupt", err)
			}
		})
	}
}

// A record that was never promised to be durable may be lost with its error; the stream goes on from what is there.
func TestReopeningForgivesWhatWasNotPromised(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir).(*Store)
	defer closeStore(t, s)
	stream := eventlogtest.Stream{Name: "session/s"}
	kept, lost := stream.Next("kept"), stream
	lazy := lost.Next("lost")
	lazy.Durable = false
	for _, a := range []eventlog.Append{kept, lazy} {
		if errs := s.Append(t.Context(), []eventlog.Append{a}); errs != nil {
			t.Fatal(errs)
		}
	}
	script(t, filepath.Join(dir, fileName), "DELETE FROM records WHERE id = 2")
	doubt(s)
	if errs := s.Append(t.Context(), []eventlog.Append{lost.Next("decided on what was lost")}); errs == nil || !errors.Is(errs[0], eventlog.ErrConflict) {
		t.Errorf("got %v, want ErrConflict", errs)
	}
	if errs := s.Append(t.Context(), []eventlog.Append{stream.Next("decided anew")}); errs != nil {
		t.Error(errs)
	}
	if n := count(eventlogtest.Verify(t, s)); n != 2 {
		t.Errorf("%d records, want 2", n)
	}
}

// doubt leaves the store as an error does that leaves it open what is on the disk.
func doubt(s *Store) {
	s.write.Lock()
	defer s.write.Unlock()
	s.fail(errFault)
}
