package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/charmbracelet/x/term"
)

// print.go: what is printed, and that nothing an agent or a tool wrote can steer the terminal it is shown on.

// clean makes a text of others safe to show on one line: what does not show, steers a terminal or changes the direction of
// writing is written as \u{…}, line ends and tabs too.
func clean(text string) string {
	if isClean(text) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case isShown(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}

func isClean(text string) bool {
	for _, r := range text {
		if r == utf8.RuneError || !isShown(r) {
			return false
		}
	}
	return true
}

// isShown reports whether a character shows as itself: letters, marks, numbers, signs and the plain space.
func isShown(r rune) bool { return unicode.IsPrint(r) && r != '\u115f' && r != '\u3164' } // two fillers that Unicode calls letters

// isTerminal reports whether somebody reads along.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

// printf prints text whose arguments are cleaned.
func (g *globals) printf(format string, args ...any) {
	fmt.Fprintf(g.out, format, cleaned(args)...)
}

// cleaned cleans the texts among arguments.
func cleaned(args []any) []any {
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			args[i] = clean(text)
		}
	}
	return args
}

// printJSON prints one JSON value. A file or a pipe gets it as it is; on a terminal what does not show is escaped, which is
// the same value.
func (g *globals) printJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return g.printLine(b)
}

// printLine prints JSON text.
func (g *globals) printLine(b []byte) error {
	if isTerminal(g.out) {
		b = escape(b)
	}
	_, err := g.out.Write(append(b[:len(b):len(b)], '\n'))
	return err
}

// escape writes what does not show as \uXXXX. Outside its strings JSON has nothing of the kind but line ends and tabs.
func escape(b []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case isShown(r) || r == '\n' || r == '\t':
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// printTable prints rows under headings. Cells are cleaned.
func (g *globals) printTable(headings []string, rows [][]string) {
	bold := lipgloss.NewStyle()
	if isTerminal(g.out) {
		bold = bold.Bold(true)
	}
	last := len(headings) - 1
	t := table.New().Headers(headings...).Border(lipgloss.Border{}).Wrap(false).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).BorderColumn(false).
		StyleFunc(func(row, col int) lipgloss.Style {
			style := lipgloss.NewStyle()
			if row == table.HeaderRow {
				style = bold
			}
			if col < last {
				style = style.PaddingRight(2)
			}
			return style
		})
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = clean(cell)
		}
		t.Row(cells...)
	}
	for line := range strings.Lines(t.Render() + "\n") {
		if line = strings.TrimRight(line, " \n"); line != "" {
			fmt.Fprintln(g.out, line)
		}
	}
}

// A field is a named value of a thing that is shown.
type field struct{ name, value string }

// printFields prints the fields that have a value, one a line.
func (g *globals) printFields(fields ...field) {
	widest := 0
	for _, f := range fields {
		if f.value != "" {
			widest = max(widest, len(f.name))
		}
	}
	for _, f := range fields {
		if f.value != "" {
			g.printf("%-*s  %s\n", widest, f.name, f.value)
		}
	}
}

// printed prints what was answered: with --json as /v1 answers it, else as print does.
func printed[T any](g *globals, answer T, err error, print func()) error {
	switch {
	case err != nil:
		return err
	case g.json:
		return g.printJSON(answer)
	}
	print()
	return nil
}

// printList prints a list: with --json as /v1 answers it, else as a table.
func printList[T any](g *globals, items iter.Seq2[T, error], headings []string, row func(T) []string) error {
	all := []T{}
	for item, err := range items {
		if err != nil {
			return err
		}
		all = append(all, item)
	}
	if g.json {
		return g.printJSON(map[string]any{"items": all})
	}
	rows := make([][]string, len(all))
	for i, item := range all {
		rows[i] = row(item)
	}
	g.printTable(headings, rows)
	return nil
}

// when shows a time.
func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// count returns "1 record", "2 records".
func count[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
