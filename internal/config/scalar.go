package config

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

	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
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

// list joins names for a message.
func list(names []string) string {
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// text reads a string that is not empty and has no control characters.
func (r *reader) text(it item) (string, bool) {
	s, ok := r.anyText(it)
	switch {
	case !ok:
		return "", false
	case s == "":
		r.fault(it, "is empty")
		return "", false
	case strings.ContainsFunc(s, unicode.IsControl):
		r.fault(it, "has a line break or a control character")
		return "", false
	}
	return s, true
}

// anyText reads a string of any kind.
func (r *reader) anyText(it item) (string, bool) {
	switch n := it.node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		r.fault(it, "want a text, got %s: put it in quotes", describe(it.node))
	default:
		r.fault(it, "want a text, got %s", describe(it.node))
	}
	return "", false
}

// literal reads a string, number or boolean as the text it was written as, for places where a text is all there can be: an
// argument of a command, a variable of its environment.
func (r *reader) literal(it item) (string, bool) {
	switch it.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return it.node.GetToken().Value, true
	}
	s, ok := r.anyText(it)
	if ok && strings.ContainsRune(s, 0) {
		r.fault(it, "has a NUL character")
		return "", false
	}
	return s, ok
}

func (r *reader) word(it item, words ...string) (string, bool) {
	s, ok := r.text(it)
	if ok && !slices.Contains(words, s) {
		r.fault(it, "%q is not one of %s", clip(s), strings.Join(words, ", "))
		return "", false
	}
	return s, ok
}

func (r *reader) boolean(it item) (value, ok bool) {
	n, ok := it.node.(*ast.BoolNode)
	if !ok {
		r.fault(it, "want true or false, got %s", describe(it.node))
		return false, false
	}
	return n.Value, true
}

// number reads a whole number from least to most.
func (r *reader) number(it item, least, most int) (int, bool) {
	if n, ok := it.node.(*ast.IntegerNode); ok {
		if v, err := strconv.Atoi(n.Token.Value); err == nil && v >= least && v <= most {
			return v, true
		}
	}
	r.fault(it, "want a whole number from %d to %d, got %s", least, most, describe(it.node))
	return 0, false
}

// decimal reads a number from 0 to 1 into whole millionths, from its digits: no float is involved.
func (r *reader) decimal(it item) (uint32, bool) {
	switch it.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		if m, err := ring.ParseMillionths(it.node.GetToken().Value); err == nil {
			return m, true
		}
	}
	r.fault(it, "want a number from 0 to 1 with at most six places, got %s", describe(it.node))
	return 0, false
}

// duration reads a duration from least to most.
func (r *reader) duration(it item, least, most time.Duration) (time.Duration, bool) {
	if n, ok := it.node.(*ast.StringNode); ok {
		if d, err := ParseDuration(n.Value); err == nil && d >= least && d <= most {
			return d, true
		}
	}
	r.fault(it, "want a duration from %s to %s such as 30s, 15m, 24h or 7d, got %s", formatDuration(least), formatDuration(most), describe(it.node))
	return 0, false
}

// texts reads a list of strings, each once.
func (r *reader) texts(it item, each func(item) (string, bool)) []string {
	var out []string
	seen := map[string]bool{}
	r.list(it, func(_ int, e item) {
		s, ok := each(e)
		switch {
		case !ok:
		case seen[s]:
			r.fault(e, "%q is listed twice", clip(s))
		default:
			out, seen[s] = append(out, s), true
		}
	})
	return out
}

func (r *reader) did(it item) (policy.DID, bool) {
	s, ok := r.text(it)
	if !ok {
		return "", false
	}
	did, err := policy.ParseDID(s)
	if err != nil {
		r.fault(it, "%v", err)
		return "", false
	}
	return did, true
}

// value reads anything JSON can hold.
func (r *reader) value(it item) (any, bool) {
	switch n := it.node.(type) {
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
		r.list(it, func(i int, e item) {
			v, good := r.value(e)
			out[i], ok = v, ok && good
		})
		return out, ok
	case *ast.MappingNode, *ast.MappingValueNode:
		out, ok := map[string]any{}, true
		r.mapping(it, func(key string, v item) {
			value, good := r.value(v.atValue())
			out[key], ok = value, ok && good
		})
		return out, ok
	}
	r.fault(it, "%s cannot be an argument", describe(it.node))
	return nil, false
}
