package demo

import (
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/saga"
)

// The people and programs of the story.
const (
	reader = policy.DID("did:mesh:reader") // σ 0.55: ring 3
	writer = policy.DID("did:mesh:writer") // σ 0.80: ring 2
	editor = policy.DID("did:mesh:editor") // σ 0.75: ring 2
	chief  = policy.DID("did:mesh:chief")  // σ 0.97: ring 1
	rogue  = policy.DID("did:mesh:rogue")  // σ 0.80: ring 2
	intern = policy.DID("did:mesh:intern") // σ 0.50: ring 3
)

var cast = []struct {
	did   policy.DID
	sigma string
}{{reader, "0.55"}, {writer, "0.80"}, {editor, "0.75"}, {chief, "0.97"}, {rogue, "0.80"}, {intern, "0.50"}}

// A bad is a note whose arguments the server's schema does not take.
type bad struct {
	Name string `json:"name"`
	Text int    `json:"text"`
}

// A vouch is what an agent says to stand behind another.
type vouch struct {
	Agent policy.DID `json:"agent"`
}

// A step is one thing that happens and how it must go.
type step struct {
	say  string
	who  policy.DID
	tool string // empty: not a call
	args any
	want policy.Code // empty: the call is let through, and the tool itself says no
	text string      // what the tool must answer; empty: whatever it answers

	decide string           // grant, or vote: what who does about the approval that was opened last
	kill   policy.DID       // whom who kills while it calls the tool
	undo   policy.DID       // whose doings who takes back
	saga   *saga.Definition // what who runs, with what must be told of it in tells
	blame  policy.DID       // about whose newest action who raises an incident, with
	cost   []policy.DID     // whose standing is told then
	tells  []string         // what must be told of that
	then   string           // said of a saga once it has ended
}

var story = []step{
	{say: "A ring-2 agent writes; it was admitted, recorded, dispatched, and its outcome recorded.",
		who: writer, tool: "write_note", args: note{"plan", "ship on friday"}, want: policy.OK, text: "written"},
	{say: "A ring-3 agent may read,", who: reader, tool: "read_note", args: note{Name: "plan"}, want: policy.OK, text: "ship on friday"},
	{say: "but not write, and is told what it would take.", who: reader, tool: "write_note", args: note{"plan", "mine"}, want: policy.RingInsufficient},
	{say: "Arguments that do not fit never reach the server.", who: writer, tool: "write_note", args: bad{"plan", 1}, want: policy.InvalidArguments},
	{say: "What cannot be taken back needs an approval: of ring 2, an approver's.", who: writer, tool: "burn_note", args: note{Name: "plan"}, want: policy.ApprovalRequired},
	{say: "An approver grants exactly this call,", who: "did:mesh:approver", decide: "grant"},
	{say: "which passes,", who: writer, tool: "burn_note", args: note{Name: "plan"}, want: policy.OK, text: "burnt"},
	{say: "once.", who: writer, tool: "burn_note", args: note{Name: "plan"}, want: policy.ApprovalRequired},
	{say: "A ring-1 agent needs a consensus instead:", who: chief, tool: "write_note", args: note{"draft", "v1"}, want: policy.OK, text: "written"},
	{say: "it asks,", who: chief, tool: "burn_note", args: note{Name: "draft"}, want: policy.ApprovalRequired},
	{say: "its peers vote on what they saw,", who: writer, decide: "vote"},
	{say: "more than half and at least two,", who: editor, decide: "vote"},
	{say: "and the call passes.", who: chief, tool: "burn_note", args: note{Name: "draft"}, want: policy.OK, text: "burnt"},
	{say: "An agent begins to write over a note and does not stop; an operator kills it in mid-call,",
		who: "did:mesh:admin", kill: rogue, tool: "scribble_note", args: note{Name: "log"}},
	{say: "and nothing it calls is sent any more.", who: rogue, tool: "read_note", args: note{Name: "log"}, want: policy.AgentKilled},
	{say: "A folder has notes in it;", who: writer, tool: "write_note", args: note{"budget", "12,000 a month"}, want: policy.OK, text: "written"},
	{say: "three of them,", who: writer, tool: "write_note", args: note{"team", "ann, bob, cem"}, want: policy.OK, text: "written"},
	{say: "all needed.", who: writer, tool: "write_note", args: note{"goals", "be useful"}, want: policy.OK, text: "written"},
	{say: "An agent wrecks them,", who: editor, tool: "write_note", args: note{"budget", ""}, want: policy.OK, text: "written"},
	{say: "one after the other,", who: editor, tool: "write_note", args: note{"team", "me, me, me"}, want: policy.OK, text: "written"},
	{say: "twice if need be,", who: editor, tool: "write_note", args: note{"budget", "all of it"}, want: policy.OK, text: "written"},
	{say: "and leaves its own behind.", who: editor, tool: "write_note", args: note{"manifesto", "more of me"}, want: policy.OK, text: "written"},
	{say: "One command takes back what it did, newest first: each note's text was read before it was written over,",
		who: "did:mesh:admin", undo: editor, text: "4 undone, 0 left"},
	{say: "so it is there again,", who: reader, tool: "read_note", args: note{Name: "budget"}, want: policy.OK, text: "12,000 a month"},
	{say: "all of it,", who: reader, tool: "read_note", args: note{Name: "team"}, want: policy.OK, text: "ann, bob, cem"},
	{say: "and what was not there is not.", who: reader, tool: "read_note", args: note{Name: "manifesto"}, text: "no such note"},
	{say: "A newcomer may not write.", who: intern, tool: "write_note", args: note{"payroll", "all to me"}, want: policy.RingInsufficient},
	{say: "The chief puts up a fifth of its standing for it,", who: chief, tool: "hypervisor__vouch", args: vouch{intern}, want: policy.OK},
	{say: "which lifts it to ring 2: now it writes,", who: intern, tool: "write_note", args: note{"payroll", "all to me"}, want: policy.OK, text: "written"},
	{say: "somebody reads that,", who: writer, tool: "read_note", args: note{Name: "payroll"}, want: policy.OK, text: "all to me"},
	{say: "and writes what follows from it.", who: writer, tool: "write_note", args: note{"transfers", "everything"}, want: policy.OK, text: "written"},
	{say: "That was wrong. Who acted bears most of it, and who led to it the rest:", who: "did:mesh:admin", blame: writer, cost: []policy.DID{writer},
		tells: []string{"writer bears 0.7", "intern bears 0.2", "writer has σ 0.6"}}, // the seconds between them count
	{say: "What the newcomer wrote nobody led to: it is slashed, and the chief has lost what it put up.", who: "did:mesh:admin", blame: intern,
		cost: []policy.DID{intern, chief}, tells: []string{"intern bears 1.00", "intern is slashed", "intern has σ 0.00", "chief has σ 0.776"}},
	{say: "It is back where it was.", who: intern, tool: "write_note", args: note{"payroll", "again"}, want: policy.RingInsufficient},
	{say: "Five steps of three agents are to be done all or not at all. The fourth, of three that are begun together, fails:",
		then: "What was done is taken back, the last first, and each bears its share:", who: "did:mesh:admin", saga: &release, tells: []string{"compensated: ", "outline by editor compensated", "look by chief committed", "south by writer failed",
			"; writer bears 0.6", "; chief bears 0.", "; editor bears 0."}},
	{say: "nothing of it is left,", who: reader, tool: "read_note", args: note{Name: "outline"}, text: "no such note"},
	{say: "neither of what was done beside it.", who: reader, tool: "read_note", args: note{Name: "north"}, text: "no such note"},
	{say: "An incident about a call that failed is nobody's fault; the saga said otherwise of its own steps.", who: "did:mesh:admin", blame: writer, tells: []string{"nobody bears it: failed"}},
	{say: "That the north was released is: of who did it, and of whose outline it followed.", who: "did:mesh:admin", blame: chief, cost: []policy.DID{chief, editor},
		tells: []string{"chief bears 0.", "editor bears 0."}},
	{say: "A tool no server lists is unknown.", who: chief, tool: "launch", want: policy.UnknownAction},
}
