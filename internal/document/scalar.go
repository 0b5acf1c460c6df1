package document

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// Day is what d stands for in a duration.
const Day = 24 * time.Hour

// ErrDuration is returned for a text that is no duration.
var ErrDuration = errors.New("not a duration such as 30s, 15m, 24h or 7d")

// ParseDuration reads a duration as time.ParseDuration does, and d for days of 24 hours before everything else: 7d, 1d12h.
// It returns ErrDuration otherwise, and for one that does not fit.
func ParseDuration(text string) (time.Duration, error) {
	var days time.Duration
	rest := text
	if count, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(count, 10, 16)
		if err != nil {
			return 0, ErrDuration
		}
		if days = time.Duration(n) * Day; after == "" {
			return days, nil
		}
		if strings.ContainsAny(after[:1], "+-") {
			return 0, ErrDuration
		}
		rest = after
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d > 0 && days > math.MaxInt64-d {
		return 0, ErrDuration
	}
	return days + d, nil
}

// formatDuration writes a bound as one would in the file.
func formatDuration(d time.Duration) string {
	if d >= Day && d%Day == 0 {
		return fmt.Sprintf("%dd", d/Day)
	}
	return d.String()
}

// List joins names for a message.
func List(names []string) string {
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// Text reads a string that is not empty and has no control characters.
func (r *Reader) Text(it Item) (string, bool) {
	s, ok := r.AnyText(it)
	switch {
	case !ok:
		return "", false
	case s == "":
		r.Fault(it, "is empty")
		return "", false
	case strings.ContainsFunc(s, unicode.IsControl):
		r.Fault(it, "has a line break or a control character")
		return "", false
	}
	return s, true
}

// AnyText reads a string of any kind.
func (r *Reader) AnyText(it Item) (string, bool) {
	switch n := it.Node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		r.Fault(it, "want a text, got %s: put it in quotes", Describe(it.Node))
	default:
		r.Fault(it, "want a text, got %s", Describe(it.Node))
	}
	return "", false
}

// Literal reads a string, number or boolean as the text it was written as, for places where a text is all there can be: an
// argument of a command, a variable of its environment.
func (r *Reader) Literal(it Item) (string, bool) {
	switch it.Node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return it.Node.GetToken().Value, true
	}
	s, ok := r.AnyText(it)
	if ok && strings.ContainsRune(s, 0) {
		r.Fault(it, "has a NUL character")
		return "", false
	}
	return s, ok
}

// Word reads one of some words.
func (r *Reader) Word(it Item, words ...string) (string, bool) {
	s, ok := r.Text(it)
	if ok && !slices.Contains(words, s) {
		r.Fault(it, "%q is not one of %s", Clip(s), strings.Join(words, ", "))
		return "", false
	}
	return s, ok
}

// Boolean reads true or false.
func (r *Reader) Boolean(it Item) (value, ok bool) {
	n, ok := it.Node.(*ast.BoolNode)
	if !ok {
		r.Fault(it, "want true or false, got %s", Describe(it.Node))
		return false, false
	}
	return n.Value, true
}

// Number reads a whole number from least to most.
func (r *Reader) Number(it Item, least, most int) (int, bool) {
	if n, ok := it.Node.(*ast.IntegerNode); ok {
		if v, err := strconv.Atoi(n.Token.Value); err == nil && v >= least && v <= most {
			return v, true
		}
	}
	r.Fault(it, "want a whole number from %d to %d, got %s", least, most, Describe(it.Node))
	return 0, false
}

// Duration reads a duration from least to most.
func (r *Reader) Duration(it Item, least, most time.Duration) (time.Duration, bool) {
	if n, ok := it.Node.(*ast.StringNode); ok {
		if d, err := ParseDuration(n.Value); err == nil && d >= least && d <= most {
			return d, true
		}
	}
	r.Fault(it, "want a duration from %s to %s such as 30s, 15m, 24h or 7d, got %s", formatDuration(least), formatDuration(most), Describe(it.Node))
	return 0, false
}

// Texts reads a list of strings, each once.
func (r *Reader) Texts(it Item, each func(Item) (string, bool)) []string {
	var out []string
	seen := map[string]bool{}
	r.List(it, func(_ int, e Item) {
		s, ok := each(e)
		switch {
		case !ok:
		case seen[s]:
			r.Fault(e, "%q is listed twice", Clip(s))
		default:
			out, seen[s] = append(out, s), true
		}
	})
	return out
}

// Value reads anything JSON can hold.
func (r *Reader) Value(it Item) (any, bool) {
	switch n := it.Node.(type) {
	case nil, *ast.NullNode:
		return nil, true
	case *ast.BoolNode:
		return n.Value, true
	case *ast.IntegerNode:
		if v, ok := n.Value.(uint64); ok && v <= math.MaxInt64 {
			return int64(v), true
		}
		return n.Value, true
	case *ast.FloatNode:
		return n.Value, true
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.SequenceNode:
		out, ok := make([]any, len(n.Values)), true
		r.List(it, func(i int, e Item) {
			v, good := r.Value(e)
			out[i], ok = v, ok && good
		})
		return out, ok
	case *ast.MappingNode, *ast.MappingValueNode:
		out, ok := map[string]any{}, true
		r.Mapping(it, func(key string, v Item) {
			value, good := r.Value(v.AtValue())
			out[key], ok = value, ok && good
		})
		return out, ok
	}
	r.Fault(it, "%s cannot be an argument", Describe(it.Node))
	return nil, false
}
