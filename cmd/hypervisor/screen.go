package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/term"
)

// screen.go: text that is drawn over itself on a terminal. What has scrolled away cannot be drawn over, so a frame is no larger than
// the terminal is.

// A screen draws frames, each in the place of the one before.
type screen struct {
	out   io.Writer
	size  func() (width, height int) // of the terminal now; zeros: that is not known
	drawn []int                      // how wide each line of the newest frame is
}

// leastHeight is how many lines a terminal must have for anything to be drawn over: a head, a line, what is left out, and the cursor's.
const leastHeight = 5

// newScreen returns what draws on a terminal; nil: w is none.
func newScreen(w io.Writer) *screen {
	f, ok := w.(*os.File)
	if !ok || !isTerminal(w) {
		return nil
	}
	return &screen{out: w, size: func() (int, int) {
		width, height, err := term.GetSize(f.Fd())
		if err != nil {
			return 0, 0
		}
		return width, height
	}}
}

// room returns how many lines a frame can have; false: too few to draw over any.
func (s *screen) room() (int, bool) {
	_, height := s.size()
	return height - 1, height >= leastHeight // the cursor stands below the frame
}

// draw puts a frame, whose lines are clean, in the place of the newest. One that does not fit where it is drawn is the last.
func (s *screen) draw(lines []string, last bool) {
	width, height := s.size()
	var b strings.Builder
	if up := min(s.rows(width), height-1); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", up)
	}
	s.drawn = s.drawn[:0]
	for _, l := range lines {
		if !last {
			l = clipTo(l, width)
		}
		s.drawn = append(s.drawn, lipgloss.Width(l))
		b.WriteString(l + "\n")
	}
	_, _ = io.WriteString(s.out, b.String()) // a terminal that is gone hears nothing more
}

// rows returns how many lines of the terminal the newest frame takes: more than it had, should the terminal be narrower now.
func (s *screen) rows(width int) (n int) {
	for _, w := range s.drawn {
		n++
		if width > 0 && w > width {
			n += (w - 1) / width
		}
	}
	return n
}

// clipTo cuts a line to a width.
func clipTo(line string, width int) string {
	if width <= 0 || lipgloss.Width(line) <= width {
		return line
	}
	var b strings.Builder
	used := 1 // of the mark
	for _, r := range line {
		if used += lipgloss.Width(string(r)); used > width {
			break
		}
		b.WriteRune(r)
	}
	return b.String() + "…"
}

// window returns which of n lines to show where there is room for so many: all, or those around the first to last that matter, with
// room for a line that says how many are left out before them, and one behind them.
func window(n, room, first, last int) (from, to int) {
	if n <= room {
		return 0, n
	}
	show := max(room-2, 1)
	from = first - max(0, (show-(last-first+1))/2)
	from = max(0, min(from, n-show))
	return from, from + show
}
