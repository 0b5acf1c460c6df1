package hypervisor_test

import (
	"context"
	"strings"
	"testing"

	"github.com/agenthypervisor/hypervisor"
	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/hypervisortest"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/session"
)

// variant puts one more tool on the drive: an append whose descriptor is changed.
func (d *drive) variant(t testing.TB, s *hypervisor.Session, change func(*action.Descriptor)) {
	t.Helper()
	tools := d.tools()
	for _, tool := range tools {
		if tool.Descriptor.ID == "drive.append" {
			tool.Descriptor.ID = "drive.variant"
			change(&tool.Descriptor)
			tools = append(tools, tool)
		}
	}
	if err := s.SetTools("", "drive.", tools); err != nil {
		t.Fatal(err)
	}
}

// SPEC §4: "Never claim more than is so". Where the image does not show what an action did, an undo could not be known to have
// taken it back, so none is offered.
func TestWhatTheImageDoesNotShowIsNotTakenBack(t *testing.T) {
	hv := hypervisortest.Open(t, nil)
	s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
	d := newDrive()
	d.put("/a", "one")
	d.put("/other", "still")
	d.variant(t, s, func(c *action.Descriptor) {
		c.Image = &action.Look{Call: action.Call{Tool: "read", Args: map[string]any{"path": "/other"}}, Bytes: "{{result.text}}"}
		c.UndoAbsent = nil
	})
	drives(t, s, policy.Agent(ann), "drive.variant", "/a", "two")
	r := undone(t, hv, admin, hypervisor.UndoRequest{Session: s.ID()})
	if len(r.Steps) != 1 || r.Steps[0].Kind != session.Impossible || r.Undone != 0 || !strings.Contains(r.Steps[0].Reason, "nothing that takes") {
		t.Errorf("%+v", r)
	}
	if d.files["/a"] != "onetwo" || d.files["/other"] != "still" {
		t.Errorf("the drive has %v", d.files)
	}
}

// An undo that promised less than all says when not all is as it was.
func TestAPartialUndoSaysWhatItDidNotBringBack(t *testing.T) {
	for text, remark := range map[string]string{"{{image.text}}": "", "{{image.text}}?": "does not read as it did before"} {
		hv := hypervisortest.Open(t, nil)
		s := hypervisortest.Session(t, hv, nil, map[policy.DID]string{ann: "0.80"})
		d := newDrive()
		d.put("/a", "one")
		d.variant(t, s, func(c *action.Descriptor) {
			c.Reversibility = action.Partial
			c.Undo = []action.Call{{Tool: "write", Args: map[string]any{"path": "{{args.path}}", "text": text}}}
		})
		drives(t, s, policy.Agent(ann), "drive.variant", "/a", "two")
		r, err := hv.Undo(context.Background(), admin, hypervisor.UndoRequest{Session: s.ID()})
		if err != nil || r.Undone != 1 || r.Steps[0].Kind != session.Compensable || (r.Steps[0].Reason == "") != (remark == "") || !strings.Contains(r.Steps[0].Reason, remark) {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
	}
}
