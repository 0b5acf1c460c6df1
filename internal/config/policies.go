package config

import (
	"errors"
	"fmt"

	"github.com/agenthypervisor/hypervisor/internal/cel"
	"github.com/agenthypervisor/hypervisor/policy"
)

// policies reads the operator's rules and compiles them.
func (l *loader) policies(it item) {
	whens := map[int]item{} // where each rule's expression is, by its place among the rules
	names := map[string]bool{}
	l.list(it, func(_ int, e item) {
		before := len(*l.faults)
		rule, when := l.policy(e)
		if rule.Name != "" && names[rule.Name] {
			l.fault(e, "the name %q is used twice", rule.Name)
		}
		names[rule.Name] = true
		if rule.When == "" { // without an expression there is nothing to compile
			return
		}
		if len(*l.faults) > before { // the expression is checked all the same, under a name and an effect that do
			rule.Name, rule.Effect = fmt.Sprintf("policies[%d]", len(l.Policies)), policy.Deny
		}
		whens[len(l.Policies)] = when
		l.Policies = append(l.Policies, rule)
		l.said.policies[rule.Name] = fmt.Sprintf("%s:%d:%d", l.file, e.at.Line, e.at.Column)
	})
	rules, err := cel.Compile(l.Policies)
	if err == nil {
		l.Rules = rules
		return
	}
	var faults cel.Errors
	if !errors.As(err, &faults) {
		l.fault(it, "%v", err)
		return
	}
	for _, f := range faults {
		if when, ok := whens[f.Rule]; ok && f.Line > 0 {
			line, col := l.place(when, f.Line, f.Col)
			l.faultAt(line, col, "%s: %s", when.path, f.What)
			continue
		}
		l.fault(it, "%s", f.What)
	}
}

func (l *loader) policy(it item) (rule cel.Rule, when item) {
	before := len(*l.faults)
	seen := l.object(it, map[string]field{
		"name": func(it item) { set(&rule.Name, it, l.name) },
		"when": func(it item) {
			when = it
			set(&rule.When, it, l.anyText)
			if rule.When == "" && len(*l.faults) == before {
				l.fault(it, "is empty")
			}
		},
		"effect": func(it item) {
			if word, ok := l.word(it, "deny", "require_approval"); ok {
				rule.Effect = map[string]policy.Effect{"deny": policy.Deny, "require_approval": policy.RequireApproval}[word]
			}
		},
	})
	for _, key := range []string{"name", "when", "effect"} {
		if !seen[key] && isMapping(it) {
			l.fault(it, "%s is missing", key)
		}
	}
	return rule, when
}
