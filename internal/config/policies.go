package config

import (
	"errors"
	"fmt"

	"github.com/agenthypervisor/hypervisor/internal/cel"
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
)

// policies reads the operator's rules and compiles them.
func (l *loader) policies(it item) {
	whens := map[int]item{} // where each rule's expression is, by its place among the rules
	names := map[string]bool{}
	l.List(it, func(_ int, e item) {
		before := len(*l.Faults)
		rule, when := l.policy(e)
		if rule.Name != "" && names[rule.Name] {
			l.Fault(e, "the name %q is used twice", rule.Name)
		}
		names[rule.Name] = true
		if rule.When == "" { // without an expression there is nothing to compile
			return
		}
		if len(*l.Faults) > before { // the expression is checked all the same, under a name and an effect that do
			rule.Name, rule.Effect = fmt.Sprintf("policies[%d]", len(l.Policies)), policy.Deny
		}
		whens[len(l.Policies)] = when
		l.Policies = append(l.Policies, rule)
		l.said.policies[rule.Name] = fmt.Sprintf("%s:%d:%d", l.File, e.At.Line, e.At.Column)
	})
	rules, err := cel.Compile(l.Policies)
	if err == nil {
		l.Rules = rules
		return
	}
	var faults cel.Errors
	if !errors.As(err, &faults) {
		l.Fault(it, "%v", err)
		return
	}
	for _, f := range faults {
		if when, ok := whens[f.Rule]; ok && f.Line > 0 {
			line, col := l.Place(when, f.Line, f.Col)
			l.FaultAt(line, col, "%s: %s", when.Path, f.What)
			continue
		}
		l.Fault(it, "%s", f.What)
	}
}

func (l *loader) policy(it item) (rule cel.Rule, when item) {
	before := len(*l.Faults)
	seen := l.Object(it, map[string]field{
		"name": func(it item) { set(&rule.Name, it, l.name) },
		"when": func(it item) {
			when = it
			set(&rule.When, it, l.AnyText)
			if rule.When == "" && len(*l.Faults) == before {
				l.Fault(it, "is empty")
			}
		},
		"effect": func(it item) {
			if word, ok := l.Word(it, "deny", "require_approval"); ok {
				rule.Effect = map[string]policy.Effect{"deny": policy.Deny, "require_approval": policy.RequireApproval}[word]
			}
		},
	})
	for _, key := range []string{"name", "when", "effect"} {
		if !seen[key] && document.IsMapping(it) {
			l.Fault(it, "%s is missing", key)
		}
	}
	return rule, when
}
