package saga

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
)

// check.go: what makes a definition sound, and every way in which it is not.

// Known is what there is where a saga would run. A nil list knows nothing, and then nothing is unknown.
type Known struct {
	Agents  []policy.DID
	Servers []string                   // names of upstreams: in server.tool, what stands before the first dot
	Address func(address string) error // returns why a sound address may not be called; nil: nobody knows
}

// Check returns a fault for everything that is wrong with a definition, placed by name since it was not read from a file: nil if
// it is sound.
func (d *Definition) Check(known Known) document.Faults {
	var faults document.Faults
	check(d, known, func(path, what string) {
		if len(faults) < document.MaxFaults {
			faults = append(faults, document.Fault{File: "saga " + document.Clip(d.Name), What: path + ": " + what})
		}
	})
	return faults
}

// A checker looks at one definition. fault is told where, by a path such as steps[2].needs[0], and what.
type checker struct {
	*Definition
	known Known
	fault func(path, what string)
	index map[string]int // of steps, by id; the first of those that share one
}

func check(d *Definition, known Known, fault func(path, what string)) {
	c := &checker{d, known, fault, map[string]int{}}
	switch {
	case d.Name == "":
		c.complain(top("saga"), "has no name")
	case len(d.Name) > maxNameBytes:
		c.complain(top("saga"), "longer than %d bytes", maxNameBytes)
	}
	if i := d.Isolation; i != "" && i != ReadCommitted && i != Snapshot && i != Serializable {
		c.complain(top("isolation"), "%q is not one of %s, %s, %s", i, ReadCommitted, Snapshot, Serializable)
	}
	switch {
	case len(d.Steps) == 0:
		c.complain(top("steps"), "there are none")
	case len(d.Steps) > MaxSteps:
		c.complain(top("steps"), "there are %d, and a saga has at most %d", len(d.Steps), MaxSteps)
		return // each fault of so many would hide this one
	}
	for i := range d.Steps {
		c.identify(i)
	}
	needs := 0
	for i := range d.Steps {
		needs += len(d.Steps[i].Needs)
		c.step(i)
	}
	if needs > maxNeeds {
		c.complain(top("steps"), "they have %d needs, and at most %d can be had", needs, maxNeeds)
		return
	}
	c.groups()
	c.cycles()
}

// A place is where in a definition something stands. It is written out only when something is wrong there.
type place struct {
	list  string // steps or fan_out; empty: field alone
	i     int    // in the list
	field string // empty: the element itself
	j     int    // in the field, from 1; zero: the field itself
}

// String returns a path such as steps[2].needs[0].
func (p place) String() string {
	text := p.field
	if p.list != "" {
		text = fmt.Sprintf("%s[%d]", p.list, p.i)
		if p.field != "" {
			text += "." + p.field
		}
	}
	if p.j > 0 {
		text += fmt.Sprintf("[%d]", p.j-1)
	}
	return text
}

func step(i int) place       { return place{list: "steps", i: i} }
func group(i int) place      { return place{list: "fan_out", i: i} }
func top(field string) place { return place{field: field} }

// of returns the place of a field.
func (p place) of(field string) place {
	p.field = field
	return p
}

// at returns the place of an entry of a field.
func (p place) at(field string, j int) place {
	p.field, p.j = field, j+1
	return p
}

func (c *checker) complain(at place, format string, args ...any) {
	c.fault(at.String(), fmt.Sprintf(format, args...))
}

// sound reports whether an id is of letters and digits, and of . _ - within.
func sound(id string) bool {
	for i := range len(id) {
		switch b := id[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
		case (b == '.' || b == '_' || b == '-') && i > 0 && i < len(id)-1:
		default:
			return false
		}
	}
	return id != ""
}

func (c *checker) identify(i int) {
	id := c.Steps[i].ID
	first, twice := c.index[id]
	switch {
	case id == "":
		c.complain(step(i), "id is missing")
	case len(id) > maxIDBytes || !sound(id):
		c.complain(step(i).of("id"), "want letters, digits and ._- within, at most %d bytes, got %q", maxIDBytes, document.Clip(id))
	case twice:
		c.complain(step(i).of("id"), "%q is the id of steps[%d] too", id, first)
	}
	if !twice {
		c.index[id] = i
	}
}

func (c *checker) step(i int) {
	s, at := &c.Steps[i], step(i)
	c.agent(s.Agent, at)
	c.does(s, at)
	if len(s.Args) > 0 {
		if _, err := action.DecodeArgs(s.Args); err != nil {
			c.complain(at.of("args"), "%s", strings.TrimPrefix(err.Error(), action.ErrArguments.Error()+": "))
		}
	}
	if s.Timeout != 0 && (s.Timeout < leastTimeout || s.Timeout > MaxTimeout) {
		c.complain(at.of("timeout"), "want a duration from %s to %s, got %s", leastTimeout, MaxTimeout, s.Timeout)
	}
	if s.Retries < 0 || s.Retries > MaxRetries {
		c.complain(at.of("retries"), "want a whole number from 0 to %d, got %d", MaxRetries, s.Retries)
	}
	if len(s.Checkpoint) > maxGoalBytes {
		c.complain(at.of("checkpoint"), "longer than %d bytes", maxGoalBytes)
	}
	c.substitutes(s, at)
	var said map[string]bool
	for j, need := range s.Needs {
		_, ok := c.index[need]
		switch {
		case said[need]:
			c.complain(at.at("needs", j), "%q is listed twice", document.Clip(need))
		case need == s.ID:
			c.complain(at.at("needs", j), "%q needs itself", document.Clip(need))
		case !ok:
			c.complain(at.at("needs", j), "there is no step %q%s", document.Clip(need), document.Meant(need, c.ids(), ""))
		}
		if j+1 < len(s.Needs) {
			if said == nil {
				said = map[string]bool{}
			}
			said[need] = true
		}
	}
}

// substitutes checks who does a step in its agent's place.
func (c *checker) substitutes(s *Step, at place) {
	if len(s.Substitutes) > maxSubstitutes {
		c.complain(at.of("substitutes"), "there are %d, and a step has at most %d", len(s.Substitutes), maxSubstitutes)
		return
	}
	for j, did := range s.Substitutes {
		switch {
		case did == s.Agent && did != "":
			c.complain(at.at("substitutes", j), "%q is the step's own agent", document.Clip(string(did)))
		case slices.Contains(s.Substitutes[:j], did):
			c.complain(at.at("substitutes", j), "%q is listed twice", document.Clip(string(did)))
		default:
			c.isAgent(did, at.at("substitutes", j))
		}
	}
}

func (c *checker) ids() []string {
	ids := make([]string, len(c.Steps))
	for i := range c.Steps {
		ids[i] = c.Steps[i].ID
	}
	return ids
}

func (c *checker) agent(did policy.DID, at place) {
	if did == "" {
		c.complain(at, "agent is missing")
		return
	}
	c.isAgent(did, at.of("agent"))
}

// isAgent checks that there is an agent.
func (c *checker) isAgent(did policy.DID, at place) {
	if _, err := policy.ParseDID(string(did)); err != nil {
		c.complain(at, "%v", err)
		return
	}
	if c.known.Agents == nil || slices.Contains(c.known.Agents, did) {
		return
	}
	names := make([]string, len(c.known.Agents))
	for i, a := range c.known.Agents {
		names[i] = string(a)
	}
	c.complain(at, "there is no agent %q%s", did, document.Meant(string(did), names, ""))
}

// does checks what a step does and what takes it back.
func (c *checker) does(s *Step, at place) {
	switch {
	case s.Action != "" && s.Execute != "":
		c.complain(at, "wants either an action or an execute")
	case s.Action == "" && s.Execute == "":
		c.complain(at, "action is missing")
	case s.Action != "":
		c.action(s.Action, at.of("action"))
		if s.Undo != "" {
			c.complain(at.of("undo"), "an action is undone as its descriptor says; say execute to name an undo here")
		}
	default:
		c.target(s.Execute, at.of("execute"))
		if s.Undo != "" {
			c.target(s.Undo, at.of("undo"))
		}
	}
}

func (c *checker) action(id string, at place) {
	if err := action.CheckID(id); err != nil {
		c.complain(at, "%s", strings.TrimPrefix(err.Error(), action.ErrDescriptor.Error()+": "))
		return
	}
	server, _, dotted := strings.Cut(id, ".")
	switch {
	case c.known.Servers != nil && !(dotted && slices.Contains(c.known.Servers, server)):
		c.complain(at, "there is no server %q%s", server, document.Meant(server, c.known.Servers, ""))
	}
}

// target checks what stands in execute or undo.
func (c *checker) target(text string, at place) {
	if len(text) > maxTargetBytes {
		c.complain(at, "longer than %d bytes", maxTargetBytes)
		return
	}
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "mcp":
		server, tool, ok := strings.Cut(rest, "/")
		if !ok || server == "" || tool == "" {
			c.complain(at, "want mcp:server/tool, got %q", document.Clip(text))
			return
		}
		c.action(server+"."+tool, at)
	case "func":
		if err := action.CheckID(rest); err != nil {
			c.complain(at, "want func:name, got %q", document.Clip(text))
		}
	case "http", "https":
		if err := action.CheckAddress(text); err != nil {
			c.complain(at, "%s", strings.TrimPrefix(err.Error(), action.ErrAddress.Error()+": "))
			return
		}
		if c.known.Address == nil {
			return
		}
		if err := c.known.Address(text); err != nil {
			c.complain(at, "%v", err)
		}
	default:
		c.complain(at, "want mcp:server/tool, func:name or https://…, got %q", document.Clip(text))
	}
}

func (c *checker) groups() {
	in := map[string]place{} // a step's place in a group
	for g := range c.FanOut {
		fan, at := &c.FanOut[g], group(g)
		switch fan.Policy {
		case All, Majority, Any:
		case "":
			c.complain(at, "policy is missing")
		default:
			c.complain(at.of("policy"), "%q is not one of %s, %s, %s", document.Clip(string(fan.Policy)), All, Majority, Any)
		}
		if len(fan.Branches) < 2 {
			c.complain(at, "wants at least two branches")
		}
		for j, branch := range fan.Branches {
			_, ok := c.index[branch]
			first, twice := in[branch]
			switch {
			case !ok:
				c.complain(at.at("branches", j), "there is no step %q%s", document.Clip(branch), document.Meant(branch, c.ids(), ""))
			case twice:
				c.complain(at.at("branches", j), "%q stands in %s too", branch, first)
			default:
				in[branch] = at.at("branches", j)
			}
		}
	}
}

// inOrder reports whether each step needs only what stands before it, and there is no group: then none waits for itself.
func (c *checker) inOrder() bool {
	for i := range c.Steps {
		for _, need := range c.Steps[i].Needs {
			if at, ok := c.index[need]; ok && at >= i {
				return false
			}
		}
	}
	return len(c.FanOut) == 0
}

// cycles notes one cycle of each knot of steps that wait for each other. A need of a branch is a need of its whole group.
func (c *checker) cycles() {
	if c.inOrder() {
		return
	}
	g := newGraph(c.Definition, c.index)
	for _, cycle := range g.cycles() {
		names := make([]string, len(cycle))
		for i, n := range cycle {
			if n < len(c.Steps) {
				names[i] = c.Steps[n].ID
			} else {
				names[i] = group(n - len(c.Steps)).String()
			}
		}
		first := &c.Steps[cycle[0]]
		need := slices.IndexFunc(first.Needs, func(id string) bool { return g.stands(id) == cycle[1] })
		c.complain(step(cycle[0]).at("needs", need), "closes a cycle: %s", strings.Join(append(names, names[0]), " → "))
	}
}
