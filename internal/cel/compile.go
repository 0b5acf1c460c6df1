package cel

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	celgo "cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Bounds of an expression and its evaluation.
const (
	maxExpression = 8 << 10   // code points
	maxNodes      = 2_000     // of the syntax tree, macros expanded
	maxDepth      = 64        // of nested expressions
	maxRegex      = 1_000     // instructions of a compiled pattern
	maxCost       = 1_000_000 // units: a value looked at, ten bytes gone over; tens of milliseconds
	maxFaults     = 10        // of syntax, per expression; the rest are echoes
)

// actionFields are the fields of action, each a variable of its own under its whole name: a name that is not one is found
// out when the rule is compiled, and no object is built for a call.
var actionFields = []string{"id", "name", "read_only", "admin", "reversibility", "idempotent", "network", "files", "subprocess", "resource"}

var environment = sync.OnceValues(func() (*celgo.Env, error) {
	return celgo.NewEnv(
		celgo.CustomTypeAdapter(adapter{types.DefaultTypeAdapter}),
		celgo.Variable("agent", celgo.StringType),
		celgo.Variable("action.id", celgo.StringType),
		celgo.Variable("action.name", celgo.StringType),
		celgo.Variable("action.read_only", celgo.BoolType),
		celgo.Variable("action.admin", celgo.BoolType),
		celgo.Variable("action.reversibility", celgo.StringType),
		celgo.Variable("action.idempotent", celgo.BoolType),
		celgo.Variable("action.network", celgo.BoolType),
		celgo.Variable("action.files", celgo.BoolType),
		celgo.Variable("action.subprocess", celgo.BoolType),
		celgo.Variable("action.resource", celgo.StringType),
		celgo.Variable("args", celgo.MapType(celgo.StringType, celgo.DynType)),
		celgo.Variable("resource", celgo.StringType),
		celgo.Variable("session", celgo.StringType),
		celgo.Variable("session.name", celgo.StringType),
		celgo.Variable("ring", celgo.IntType),
		celgo.Variable("sigma", celgo.DoubleType),
		celgo.Variable("now", celgo.TimestampType),
		celgo.Function("under", celgo.MemberOverload("string_under_string",
			[]*celgo.Type{celgo.StringType, celgo.StringType}, celgo.BoolType,
			celgo.BinaryBinding(func(resource, place ref.Val) ref.Val {
				in, err := under(string(resource.(types.String)), string(place.(types.String)))
				if err != nil {
					return types.WrapErr(err)
				}
				return types.Bool(in)
			}))),
		celgo.CrossTypeNumericComparisons(true), // sigma > 0, args.count > 1.5
		celgo.DefaultUTCTimeZone(true),
		celgo.ParserExpressionSizeLimit(maxExpression),
		celgo.ParserRecursionLimit(maxDepth),
		celgo.ExpressionNodeLimit(maxNodes),
		celgo.RegexProgramSizeLimit(maxRegex),
		celgo.ASTValidators(celgo.ValidateRegexLiterals(), celgo.ValidateTimestampLiterals(), celgo.ValidateDurationLiterals()),
	)
})

// compile returns the program of an expression, or its faults.
func compile(env *celgo.Env, text string) (celgo.Program, Errors) {
	if strings.TrimSpace(text) == "" {
		return nil, Errors{{Line: 1, Col: 1, What: "the expression is empty"}}
	}
	if !utf8.ValidString(text) {
		return nil, Errors{{Line: 1, Col: 1, What: "the expression is not valid UTF-8"}}
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, explain(issues.Errors())
	}
	if t := checked.OutputType(); !t.IsExactType(celgo.BoolType) {
		what := fmt.Sprintf("the result is %s, not bool", celgo.FormatCELType(t))
		if t.IsExactType(celgo.DynType) {
			what = "whether the result is true or false is not known beforehand; compare it, as in args.force == true"
		}
		return nil, Errors{{Line: 1, Col: 1, What: what}}
	}
	options := []celgo.ProgramOption{celgo.EvalOptions(celgo.OptOptimize)}
	if unbounded(checked.NativeRep().Expr()) {
		options = append(options, celgo.CostTracking(meter{}), celgo.CostLimit(maxCost))
	}
	program, err := env.Program(checked, options...)
	if err != nil {
		return nil, Errors{{Line: 1, Col: 1, What: err.Error()}}
	}
	return program, nil
}

// unbounded reports whether an expression can cost more than its own size times that of the arguments, so that its cost must
// be counted as it runs. Counting doubles what a small rule takes, which is why the others are spared it.
func unbounded(expr ast.Expr) bool {
	found := false
	ast.PostOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.ComprehensionKind:
			found = true
		case ast.CallKind:
			f := e.AsCall().FunctionName()
			found = found || f == overloads.Matches || f == operators.In
		}
	}))
	return found
}

var undeclared = regexp.MustCompile(`^undeclared reference to '([^']*)'`)

// explain turns cel-go's issues into faults, in the order of the expression, without the snippets they carry.
func explain(issues []*celgo.Error) Errors {
	var faults Errors
	for _, issue := range issues {
		if len(faults) == maxFaults {
			break
		}
		line, col := max(issue.Location.Line(), 1), max(issue.Location.Column()+1, 1)
		what, _, _ := strings.Cut(issue.Message, "\n")
		if m := undeclared.FindStringSubmatch(what); m != nil {
			var shift int
			what, shift = unknownName(m[1])
			col += shift
		}
		what = strings.TrimPrefix(what, "Syntax error: ")
		faults = append(faults, &Error{Line: line, Col: col, What: what})
	}
	return faults
}

// unknownName says that name means nothing. For a field of action cel-go's place is the dot, one before the field.
func unknownName(name string) (what string, shift int) {
	fields := strings.Join(actionFields, ", ")
	if field, ok := strings.CutPrefix(name, "action."); ok {
		return fmt.Sprintf("action has no %q (it has %s)", field, fields), 1
	}
	if name == "action" {
		return fmt.Sprintf("action is used by its fields only (%s)", fields), 0
	}
	return fmt.Sprintf("unknown name %q (there are agent, action, args, resource, session, ring, sigma, now)", name), 0
}
