package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

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

// An ActionRow says as what calls of a configured action are decided, with an image of what was there before.
type ActionRow struct {
	Action        string               `json:"action"` // server.tool; server.* stands for every tool of which nothing else is said
	RequiredRing  ring.Ring            `json:"required_ring"`
	RiskWeight    action.Omega         `json:"risk_weight"`
	Reversibility action.Reversibility `json:"reversibility"` // as decided, which can be less than was said
	ReadOnly      bool                 `json:"read_only"`
	Admin         bool                 `json:"admin"`
	Undo          bool                 `json:"undo"` // there is a call that takes it back
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
	decided := d.Effective(true)
	source, ok := c.said.actions[id]
	if !ok {
		source = packSource(c.Servers[server].Pack)
	}
	return ActionRow{
		Action: id, RequiredRing: d.RequiredRing(decided), RiskWeight: decided.Weight(), Reversibility: decided,
		ReadOnly: d.ReadOnly, Admin: d.Admin, Undo: d.Undo != nil, Resource: d.Resource, Note: note(d), Source: source,
	}
}

func note(d action.Descriptor) string {
	switch {
	case d.ReadOnly:
		return ""
	case d.Reversibility == action.Full && d.Undo == nil:
		return "reversibility: full without an undo is decided as none"
	case d.Reversibility == action.Full:
		return "without an image of what was there before it is decided as " + d.Effective(false).String()
	case d.Reversibility == action.Irreversible && d.Undo != nil:
		return "has an undo, but is decided as none: its reversibility says so, or nothing does"
	case d.Reversibility == action.Partial && d.Undo == nil:
		return "partial, but the hypervisor has no call that takes it back"
	}
	return ""
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
