package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// A Report says what a configuration amounts to, for `policy check`.
type Report struct {
	Actions  []ActionRow `json:"actions"`  // by id
	Policies []PolicyRow `json:"policies"` // in the order of the file
	Version  string      `json:"version"`  // of the policies: what approvals are bound to
}

// An ActionRow says as what calls of a configured action are decided, if their image, where they have one, can be taken.
type ActionRow struct {
	Action        string               `json:"action"` // server.tool; server.* stands for every tool of which nothing else is said; or an address
	RequiredRing  ring.Ring            `json:"required_ring"`
	RiskWeight    action.Omega         `json:"risk_weight"`
	Reversibility action.Reversibility `json:"reversibility"` // as decided, which can be less than was said
	ReadOnly      bool                 `json:"read_only"`
	Admin         bool                 `json:"admin"`
	Undo          bool                 `json:"undo"`                   // something takes it back
	UndoneBy      []string             `json:"undone_by,omitzero"`     // the tools called for that, in order; empty and not nil: none has to be
	UndoneAbsent  []string             `json:"undone_absent,omitzero"` // the same, where nothing was there before
	Image         string               `json:"image,omitempty"`        // the tool that reads what was there before; empty: no image is taken
	Resource      string               `json:"resource,omitempty"`
	Note          string               `json:"note,omitempty"` // what may surprise
	Source        string               `json:"source"`         // FILE:LINE:COL, or the pack where the file does not name the tool
}

// A PolicyRow is a policy and where it stands.
type PolicyRow struct {
	Name   string `json:"name"`
	Effect string `json:"effect"` // deny or require_approval
	When   string `json:"when"`
	Note   string `json:"note,omitempty"` // what may surprise
	Source string `json:"source"`
}

// Report returns a row for each action that the configuration or a pack of its names, and for each policy. What servers say of
// their own tools is not in it.
func (c *Config) Report() Report {
	r := Report{Actions: []ActionRow{}, Policies: []PolicyRow{}, Version: c.Rules.Version()}
	for _, server := range slices.Sorted(maps.Keys(c.Servers)) {
		for _, tool := range c.Servers[server].tools() {
			r.Actions = append(r.Actions, c.actionRow(server, tool))
		}
	}
	for _, at := range c.Addresses.Places() {
		r.Actions = append(r.Actions, c.addressRow(at))
	}
	for _, p := range c.Policies {
		effect := "require_approval"
		if p.Effect == policy.Deny {
			effect = "deny"
		}
		r.Policies = append(r.Policies, PolicyRow{p.Name, effect, p.When, c.policyNote(p.When), c.said.policies[p.Name]})
	}
	return r
}

// tools returns the tools of which something is said, sorted.
func (s Server) tools() []string {
	tools := maps.Clone(bundled()[s.Pack])
	if tools == nil {
		return slices.Sorted(maps.Keys(s.Actions))
	}
	maps.Copy(tools, s.Actions)
	return slices.Sorted(maps.Keys(tools))
}

func (c *Config) actionRow(server, tool string) ActionRow {
	id := server + "." + tool
	d := action.Resolve(id, c.Claims(server, tool)...)
	state, image := action.NoImage, ""
	if d.Image != nil {
		state, image = action.ImageTaken, d.Image.Tool
		if d.Undo == nil {
			state = action.ImageAbsent
		}
	}
	decided := d.Effective(state)
	source, ok := c.said.actions[id]
	if !ok {
		source = packSource(c.Servers[server].Pack)
	}
	return ActionRow{
		Action: id, RequiredRing: d.RequiredRing(decided), RiskWeight: decided.Weight(), Reversibility: decided,
		ReadOnly: d.ReadOnly, Admin: d.Admin, Undo: d.Undo != nil || d.UndoAbsent != nil, UndoneBy: toolNames(d.Undo), UndoneAbsent: toolNames(d.UndoAbsent),
		Image: image, Resource: d.Resource, Note: note(d), Source: source,
	}
}

// addressRow says as what calls of an address, and of what lies beneath it, are decided.
func (c *Config) addressRow(at string) ActionRow {
	d, err := c.Addresses.Describe(at)
	if err != nil {
		panic("config: an address of the book is not in it: " + err.Error())
	}
	decided := d.Effective(action.NoImage)
	return ActionRow{Action: at, RequiredRing: d.RequiredRing(decided), RiskWeight: decided.Weight(), Reversibility: decided, ReadOnly: d.ReadOnly, Admin: d.Admin,
		Resource: d.Resource, Note: "undone by what a saga's step names; ring 2 reaches it where the session's network_allow has its host", Source: c.said.actions[at]}
}

// toolNames returns the tools of calls; nil of nil.
func toolNames(calls []action.Call) []string {
	if calls == nil {
		return nil
	}
	names := make([]string, len(calls))
	for i, c := range calls {
		names[i] = c.Tool
	}
	return names
}

// note says what may surprise: how the decision differs from what was said, and when it is another.
func note(d action.Descriptor) string {
	undo := d.Undo != nil || d.UndoAbsent != nil
	switch {
	case d.ReadOnly:
		return ""
	case d.Reversibility == action.Irreversible && undo:
		return "has an undo, but is decided as none: its reversibility says so, or nothing does"
	case d.Reversibility == action.Irreversible:
		return ""
	case d.Reversibility == action.Full && !undo:
		return "reversibility: full without an undo is decided as none"
	case !undo:
		return "partial, but the hypervisor has no call that takes it back"
	case d.Image != nil:
		return noteOfImage(d) + onlyFor(d)
	case d.Reversibility == action.Full:
		return "full without an image of what was there before is decided as " + d.Effective(action.NoImage).String()
	}
	return ""
}

// noteOfImage says as what an action with an image is decided otherwise.
func noteOfImage(d action.Descriptor) string {
	taken, absent := d.Effective(action.ImageTaken), d.Effective(action.ImageAbsent)
	switch {
	case d.Undo == nil:
		return "where something was there before, or no faithful image can be taken, decided as none"
	case d.Image.Absent == "", absent == action.Irreversible:
		return "where no faithful image can be taken decided as none"
	case absent != taken:
		return "where nothing was there before decided as " + absent.String() + ", where no faithful image can be taken as none"
	}
	return "where no faithful image can be taken decided as none"
}

// onlyFor says which calls the undo is of; empty: of all.
func onlyFor(d action.Descriptor) string {
	var kinds []string
	for _, name := range slices.Sorted(maps.Keys(d.UndoOnly)) {
		values := make([]string, len(d.UndoOnly[name]))
		for i, v := range d.UndoOnly[name] {
			values[i] = fmt.Sprint(v)
			if v == nil {
				values[i] = "not given"
			}
		}
		kinds = append(kinds, name+" "+strings.Join(values, " or "))
	}
	if kinds == nil {
		return ""
	}
	return "; so is every call but those with " + strings.Join(kinds, ", ")
}

var (
	asksResource = regexp.MustCompile(`(^|[^.\w])resource\b`)
	namesAction  = regexp.MustCompile(`["']([\w-]+)\.([^"']+)["']`)
)

// policyNote warns of a rule that asks for the resource of an action whose resource nobody says: it would never hold. It goes
// by the look of the expression, and says nothing of actions that the rule does not name.
func (c *Config) policyNote(when string) string {
	if !asksResource.MatchString(when) {
		return ""
	}
	for _, m := range namesAction.FindAllStringSubmatch(when, -1) {
		server, tool := m[1], m[2]
		_, upstream := c.MCPServers[server]
		_, said := c.Servers[server]
		if (upstream || said) && action.Resolve(server+"."+tool, c.Claims(server, tool)...).Resource == "" {
			return fmt.Sprintf("%s.%s has no resource here, so a condition on resource does not hold for it; say servers.%s.actions.%s.resource", server, tool, server, tool)
		}
	}
	return ""
}
