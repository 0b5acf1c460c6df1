package demo

import "github.com/agenthypervisor/hypervisor/action"

// claims are what the operator of the demo says of its tool server: that a note is read and written back, and removed where
// there was none.
func claims(tool string) []action.Claim {
	yes := true
	partial, full := action.Partial, action.Full
	switch resource, name := "{{args.name}}", map[string]any{"name": "{{args.name}}"}; tool {
	case "read_note":
		return []action.Claim{{ReadOnly: &yes, Resource: &resource}}
	case "scribble_note":
		return []action.Claim{{Reversibility: &partial, Resource: &resource}}
	case "write_note":
		after := "{{args.text}}"
		return []action.Claim{{Reversibility: &full, Resource: &resource, After: &after,
			Image:      &action.Look{Call: action.Call{Tool: "read_note", Args: name}, Bytes: "{{result.content.0.text}}", Absent: "no such note"},
			Undo:       []action.Call{{Tool: "write_note", Args: map[string]any{"name": "{{args.name}}", "text": "{{image.text}}"}}},
			UndoAbsent: []action.Call{{Tool: "burn_note", Args: name}}}}
	}
	return nil
}
