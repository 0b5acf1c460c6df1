package saga

import (
	"fmt"
	"regexp"
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
	Servers []string // names of upstreams: in server.tool, what stands before the first dot
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
	if c.say(d.Name == "", "saga", "has no name"); len(d.Name) > maxNameBytes {
		c.complain("saga", "longer than %d bytes", maxNameBytes)
	}
	if i := d.Isolation; i != "" && i != ReadCommitted && i != Snapshot && i != Serializable {
		c.complain("isolation", "%q is not one of %s, %s, %s", i, ReadCommitted, Snapshot, Serializable)
	}
	switch {
	case len(d.Steps) == 0:
		c.complain("steps", "there are none")
	case len(d.Steps) > MaxSteps:
		c.complain("steps", "there are %d, and a saga has at most %d", len(d.Steps), MaxSteps)
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
		c.complain("steps", "they have %d needs, and at most %d can be had", needs, maxNeeds)
		return
	}
	c.groups()
	c.cycles()
}

func (c *checker) complain(path, format string, args ...any) {
	c.fault(path, fmt.Sprintf(format, args...))
}

func (c *checker) say(wrong bool, path, format string, args ...any) {
	if wrong {
		c.complain(path, format, args...)
	}
}

var idShape = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$`)

func (c *checker) identify(i int) {
	id, path := c.Steps[i].ID, fmt.Sprintf("steps[%d].id", i)
	first, twice := c.index[id]
	switch {
	case id == "":
		c.complain(fmt.Sprintf("steps[%d]", i), "id is missing")
	case len(id) > maxIDBytes || !idShape.MatchString(id):
		c.complain(path, "want letters, digits and ._- within, at most %d bytes, got %q", maxIDBytes, document.Clip(id))
	case twice:
		c.complain(path, "%q is the id of steps[%d] too", id, first)
	}
	if !twice {
		c.index[id] = i
	}
}

func (c *checker) step(i int) {
	s, path := &c.Steps[i], fmt.Sprintf("steps[%d]", i)
	c.agent(s.Agent, path)
	c.does(s, path)
	if _, err := action.DecodeArgs(s.Args); err != nil {
		c.complain(path+".args", "%s", strings.TrimPrefix(err.Error(), action.ErrArguments.Error()+": "))
	}
	c.say(s.Timeout != 0 && (s.Timeout < leastTimeout || s.Timeout > MaxTimeout), path+".timeout", "want a duration from %s to %s, got %s", leastTimeout, MaxTimeout, s.Timeout)
	c.say(s.Retries < 0 || s.Retries > MaxRetries, path+".retries", "want a whole number from 0 to %d, got %d", MaxRetries, s.Retries)
	c.say(len(s.Checkpoint) > maxGoalBytes, path+".checkpoint", "longer than %d bytes", maxGoalBytes)
	said := map[string]bool{}
	for j, need := range s.Needs {
		at := fmt.Sprintf("%s.needs[%d]", path, j)
		_, ok := c.index[need]
		switch {
		case said[need]:
			c.complain(at, "%q is listed twice", document.Clip(need))
		case need == s.ID:
			c.complain(at, "%q needs itself", document.Clip(need))
		case !ok:
			c.complain(at, "there is no step %q%s", document.Clip(need), document.Meant(need, c.ids(), ""))
		}
		said[need] = true
	}
}

func (c *checker) ids() []string {
	ids := make([]string, len(c.Steps))
	for i := range c.Steps {
		ids[i] = c.Steps[i].ID
	}
	return ids
}

func (c *checker) agent(did policy.DID, path string) {
	if did == "" {
		c.complain(path, "agent is missing")
		return
	}
	if _, err := policy.ParseDID(string(did)); err != nil {
		c.complain(path+".agent", "%v", err)
		return
	}
	if c.known.Agents == nil || slices.Contains(c.known.Agents, did) {
		return
	}
	names := make([]string, len(c.known.Agents))
	for i, a := range c.known.Agents {
		names[i] = string(a)
	}
	c.complain(path+".agent", "there is no agent %q%s", did, document.Meant(string(did), names, ""))
}

// does checks what a step does and what takes it back.
func (c *checker) does(s *Step, path string) {
	switch {
	case s.Action != "" && s.Execute != "":
		c.complain(path, "wants either an action or an execute")
	case s.Action == "" && s.Execute == "":
		c.complain(path, "action is missing")
	case s.Action != "":
		c.action(s.Action, path+".action")
		c.say(s.Undo != "", path+".undo", "an action is undone as its descriptor says; say execute to name an undo here")
	default:
		c.target(s.Execute, path+".execute")
		if s.Undo != "" {
			c.target(s.Undo, path+".undo")
		}
	}
}

func (c *checker) action(id, path string) {
	if err := (action.Descriptor{ID: id}).Validate(); err != nil {
		c.complain(path, "%s", strings.TrimPrefix(err.Error(), action.ErrDescriptor.Error()+": "))
		return
	}
	server, _, dotted := strings.Cut(id, ".")
	switch {
	case c.known.Servers != nil && !(dotted && slices.Contains(c.known.Servers, server)):
		c.complain(path, "there is no server %q%s", server, document.Meant(server, c.known.Servers, ""))
	}
}

// address is an absolute URL (RFC 3986) with a host, and without user information, which is a secret, and fragment, which is sent
// to nobody. Whether it may be called is decided when it is.
var address = regexp.MustCompile(`^https?://([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?][!-"$-~]*)?$`)

// target checks what stands in execute or undo.
func (c *checker) target(text, path string) {
	if len(text) > maxTargetBytes {
		c.complain(path, "longer than %d bytes", maxTargetBytes)
		return
	}
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "mcp":
		server, tool, ok := strings.Cut(rest, "/")
		if !ok || server == "" || tool == "" {
			c.complain(path, "want mcp:server/tool, got %q", document.Clip(text))
			return
		}
		c.action(server+"."+tool, path)
	case "func":
		if err := (action.Descriptor{ID: rest}).Validate(); err != nil {
			c.complain(path, "want func:name, got %q", document.Clip(text))
		}
	case "http", "https":
		if !address.MatchString(text) {
			c.complain(path, "want an address such as https://deploy.example/east, without user and fragment, got %q", document.Clip(text))
		}
	default:
		c.complain(path, "want mcp:server/tool, func:name or https://…, got %q", document.Clip(text))
	}
}

func (c *checker) groups() {
	in := map[string]string{} // the path of a step's place in a group
	for g := range c.FanOut {
		group, path := &c.FanOut[g], fmt.Sprintf("fan_out[%d]", g)
		switch group.Policy {
		case All, Majority, Any:
		case "":
			c.complain(path, "policy is missing")
		default:
			c.complain(path+".policy", "%q is not one of %s, %s, %s", document.Clip(string(group.Policy)), All, Majority, Any)
		}
		c.say(len(group.Branches) < 2, path, "wants at least two branches")
		for j, branch := range group.Branches {
			at := fmt.Sprintf("%s.branches[%d]", path, j)
			_, ok := c.index[branch]
			switch {
			case !ok:
				c.complain(at, "there is no step %q%s", document.Clip(branch), document.Meant(branch, c.ids(), ""))
			case in[branch] != "":
				c.complain(at, "%q stands in %s too", branch, in[branch])
			default:
				in[branch] = at
			}
		}
	}
}

// cycles notes one cycle of each knot of steps that wait for each other. A need of a branch is a need of its whole group.
func (c *checker) cycles() {
	g := newGraph(c.Definition, c.index)
	for _, cycle := range g.cycles() {
		names := make([]string, len(cycle))
		for i, n := range cycle {
			names[i] = fmt.Sprintf("fan_out[%d]", n-len(c.Steps))
			if n < len(c.Steps) {
				names[i] = c.Steps[n].ID
			}
		}
		first := &c.Steps[cycle[0]]
		need := slices.IndexFunc(first.Needs, func(id string) bool { return g.stands(id) == cycle[1] })
		c.complain(fmt.Sprintf("steps[%d].needs[%d]", cycle[0], need), "closes a cycle: %s", strings.Join(append(names, names[0]), " → "))
	}
}
