package document

import (
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// Place returns where in the file the text at line and col of a scalar's value stands, all from 1 and in code points: what
// is wrong inside an expression is pointed at there, through quotes, escapes, folding and indentation. Where that cannot
// be told it is where the scalar begins.
func (r *Reader) Place(it Item, line, col int) (fileLine, fileCol int) {
	switch n := it.Node.(type) {
	case *ast.StringNode:
		s := r.source(it.At.Line-1, it.At.Column-1)
		if q := s.next(); q == '"' || q == '\'' {
			s.quote = q
			s.step()
		}
		if s.walk([]rune(n.Value), index(n.Value, line, col)) {
			return s.line + 1, s.col + 1
		}
	case *ast.LiteralNode:
		first := it.At.Line // the line after the | or >
		if first >= len(r.lines) || strings.TrimSpace(r.lines[first]) == "" {
			break
		}
		indent := len(r.lines[first]) - len(strings.TrimLeft(r.lines[first], " "))
		if strings.HasPrefix(n.Start.Value, "|") {
			return first + line, indent + col
		}
		s := r.source(first, indent)
		if s.walk([]rune(n.Value.Value), index(n.Value.Value, line, col)) {
			return s.line + 1, s.col + 1
		}
	}
	return it.At.Line, it.At.Column
}

// index returns how many code points stand before line and col of a text.
func index(text string, line, col int) int {
	before := 0
	for ; line > 1; line-- {
		first, rest, _ := strings.Cut(text, "\n")
		before += utf8.RuneCountInString(first) + 1
		text = rest
	}
	return before + col - 1
}

// A source is a place in the file, from 0, within a scalar written in one of YAML's styles.
type source struct {
	lines     []string
	line, col int // col in code points
	runes     []rune
	quote     rune // zero: none
}

func (r *Reader) source(line, col int) source {
	s := source{lines: r.lines, line: line, col: col}
	s.load()
	return s
}

func (s *source) load() {
	s.runes = nil
	if !s.ended() {
		s.runes = []rune(s.lines[s.line])
	}
}

func (s *source) ended() bool { return s.line >= len(s.lines) }

// endOfLine is what next returns between two lines; there are no control characters in the file.
const endOfLine rune = '\n'

func (s *source) next() rune {
	if s.col < len(s.runes) {
		return s.runes[s.col]
	}
	return endOfLine
}

func (s *source) step() {
	if s.col++; s.col > len(s.runes) {
		s.line, s.col = s.line+1, 0
		s.load()
	}
}

// walk goes on by n code points of value, and reports whether what stands there is what it should be.
func (s *source) walk(value []rune, n int) bool {
	if n > len(value) {
		n = len(value)
	}
	for i := 0; i < n; i++ {
		if s.ended() {
			return false
		}
		switch c := s.next(); {
		case (value[i] == ' ' || value[i] == '\n') && s.folds():
		case s.quote == '\'' && c == '\'':
			s.step()
			s.step()
		case s.quote == '"' && c == '\\':
			s.escape()
		default:
			if c != value[i] {
				return false
			}
			s.step()
		}
	}
	return n == len(value) || !s.ended() && (s.next() == value[n] || s.quote != 0 && strings.ContainsRune(`\'`, s.next()))
}

// folds steps over a line break and the white space around it, if that is what comes next.
func (s *source) folds() bool {
	ahead := *s
	for ahead.next() == ' ' || ahead.next() == '\t' {
		ahead.step()
	}
	if ahead.next() != endOfLine {
		return false
	}
	for !ahead.ended() && strings.ContainsRune(" \t\n", ahead.next()) {
		ahead.step()
	}
	*s = ahead
	return true
}

// escape steps over a backslash and what belongs to it (YAML 1.2 §5.7).
func (s *source) escape() {
	s.step()
	digits := map[rune]int{'x': 2, 'u': 4, 'U': 8}[s.next()]
	for range digits + 1 {
		s.step()
	}
}
