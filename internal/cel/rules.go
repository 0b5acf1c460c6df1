package cel

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	celgo "cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"github.com/agenthypervisor/hypervisor/policy"
)

// A Rule is one condition and what follows when it holds.
type Rule struct {
	Name   string        // unique among the rules; decisions name it
	When   string        // a CEL expression of type bool
	Effect policy.Effect // Deny or RequireApproval
}

// MaxRules bounds the rules of one hypervisor: each is evaluated on every call.
const MaxRules = 1000

// Rules are compiled rules, in order. The zero value lets everything pass. It is immutable and safe for concurrent use.
type Rules struct {
	rules   []compiled
	version string
}

type compiled struct {
	Rule
	program celgo.Program
}

// An Error says what is wrong with one rule, and where in its expression.
type Error struct {
	Rule int    // index into the rules given to Compile
	Name string // the rule's
	Line int    // in When, from 1; zero: the fault is not in the expression
	Col  int    // in code points, from 1
	What string
}

// Error returns the rule, the place and the fault on one line.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("rule %q: %s", e.Name, e.What)
	}
	return fmt.Sprintf("rule %q: %d:%d: %s", e.Name, e.Line, e.Col, e.What)
}

// Errors are all faults of a set of rules, in order. errors.As finds the single *Error.
type Errors []*Error

// Error returns one fault a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// Compile checks rules and prepares them. It returns Errors, with every fault of every rule, if any cannot be used: a
// syntax error, an unknown name, a result that is not bool, an expression beyond the limits, a name that is empty or used
// twice, an effect that has none.
func Compile(rules []Rule) (*Rules, error) {
	if len(rules) > MaxRules {
		return nil, Errors{{Rule: MaxRules, Name: rules[MaxRules].Name, What: fmt.Sprintf("more than %d rules", MaxRules)}}
	}
	env, err := environment()
	if err != nil {
		panic("cel: the environment does not hold together: " + err.Error())
	}
	var faults Errors
	out := &Rules{version: version(rules)}
	seen := map[string]bool{}
	for i, r := range rules {
		switch {
		case r.Name == "":
			faults = append(faults, &Error{Rule: i, What: "a rule needs a name"})
		case seen[r.Name]:
			faults = append(faults, &Error{Rule: i, Name: r.Name, What: "the name is used twice"})
		}
		seen[r.Name] = true
		if r.Effect != policy.Deny && r.Effect != policy.RequireApproval {
			faults = append(faults, &Error{Rule: i, Name: r.Name, What: "the effect is neither deny nor require_approval"})
		}
		program, errs := compile(env, r.When)
		for _, e := range errs {
			e.Rule, e.Name = i, r.Name
		}
		faults = append(faults, errs...)
		out.rules = append(out.rules, compiled{r, program})
	}
	if faults != nil {
		return nil, faults
	}
	return out, nil
}

// Version returns the hex SHA-256 of the rules as written, in order: what an approval is bound to. No rules have a version
// too, the same as the zero Rules'.
func (r *Rules) Version() string {
	if r.version == "" {
		return version(nil)
	}
	return r.version
}

// version digests names, effects and expressions (less the white space around them), and the meaning they are read with.
func version(rules []Rule) string {
	type text struct {
		Name   string `json:"name"`
		When   string `json:"when"`
		Effect uint8  `json:"effect"`
	}
	canonical := struct {
		Language string `json:"language"`
		Rules    []text `json:"rules"`
	}{Language: "cel/1", Rules: []text{}}
	for _, r := range rules {
		canonical.Rules = append(canonical.Rules, text{r.Name, strings.TrimSpace(r.When), uint8(r.Effect)})
	}
	b, err := json.Marshal(canonical)
	if err != nil {
		panic("cel: strings do not marshal: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Len returns how many rules there are.
func (r *Rules) Len() int { return len(r.rules) }

// Evaluate returns the strongest effect of the rules that hold, and the first rule that has it. A rule that cannot be
// evaluated denies, whatever its effect. It implements policy.Rules.
func (r *Rules) Evaluate(req policy.Request) policy.Verdict {
	var verdict policy.Verdict
	if len(r.rules) == 0 {
		return verdict
	}
	vars := activate(req)
	for i := range r.rules {
		rule := &r.rules[i]
		holds, err := rule.holds(vars)
		switch {
		case err != nil:
			return policy.Verdict{Effect: policy.Deny, Rule: rule.Name,
				Reason: fmt.Sprintf("rule %q could not be evaluated, so it denies: %v", rule.Name, err)}
		case holds && rule.Effect == policy.Deny:
			return policy.Verdict{Effect: policy.Deny, Rule: rule.Name}
		case holds && rule.Effect > verdict.Effect:
			verdict = policy.Verdict{Effect: rule.Effect, Rule: rule.Name}
		}
	}
	return verdict
}

var errNotBool = errors.New("the result is not true or false")

func (c *compiled) holds(vars *variables) (bool, error) {
	out, _, err := c.program.Eval(vars)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, errNotBool
	}
	return bool(b), nil
}
