package hypervisor

import (
	"bytes"
	"context"
	"strings"
	"unicode/utf8"

	"github.com/agenthypervisor/hypervisor/action"
)

// undodiff.go: what somebody else has made of what an action left.

// Bounds of a diff.
const (
	diffContext   = 3       // lines before and after that are the same
	maxDiffBytes  = 4 << 10 // of the whole diff
	maxDiffSource = 1 << 20 // of each side; larger ones are not compared line by line
)

// diff returns what the action left and what is there now, as lines; empty where one of them is no text or not kept.
func (u *undoing) diff(ctx context.Context, t *taking) (string, error) {
	left, err := u.left(ctx, t)
	if err != nil || left == nil || t.now == nil {
		return "", err
	}
	return textDiff(*left, *t.now), nil
}

// left returns what an action left, if that was kept or its arguments say it; nil: neither.
func (u *undoing) left(ctx context.Context, t *taking) (*action.Image, error) {
	if t.afterAbsent {
		return &action.Image{Absent: true}, nil
	}
	kept, err := u.hv.partAt(ctx, t.outcomeIn, t.outcomeSeq, "left")
	if err != nil || kept != nil {
		return &action.Image{Bytes: kept}, err
	}
	before, err := u.imageBefore(ctx, t)
	if err != nil {
		return nil, err
	}
	said, err := t.tool.Descriptor.Left(action.Scope{Args: t.args, Image: before, ID: t.ID, Session: t.Session})
	if err != nil {
		return nil, nil // it is not said, which is no fault
	}
	return &said, nil
}

// textDiff returns the lines in which two texts differ, those of the first with "-", those of the second with "+", and a few
// that they share around them; empty if one is no text. It is cut where it grows long.
func textDiff(was, is action.Image) string {
	if len(was.Bytes) > maxDiffSource || len(is.Bytes) > maxDiffSource || !isText(was.Bytes) || !isText(is.Bytes) {
		return ""
	}
	old, now := lines(was), lines(is)
	head := 0
	for head < len(old) && head < len(now) && old[head] == now[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(now)-head && old[len(old)-1-tail] == now[len(now)-1-tail] {
		tail++
	}
	var b strings.Builder
	put := func(mark string, lines []string) {
		for _, l := range lines {
			if b.Len() < maxDiffBytes {
				b.WriteString(mark + strings.ToValidUTF8(l[:min(len(l), maxDiffBytes/4)], "") + "\n")
			}
		}
	}
	put(" ", old[max(0, head-diffContext):head])
	put("-", old[head:len(old)-tail])
	put("+", now[head:len(now)-tail])
	put(" ", old[len(old)-tail:min(len(old), len(old)-tail+diffContext)])
	if b.Len() >= maxDiffBytes {
		b.WriteString("…\n")
	}
	return b.String()
}

func isText(b []byte) bool { return utf8.Valid(b) && !bytes.ContainsRune(b, 0) }

// lines splits an image; one of nothing says so.
func lines(i action.Image) []string {
	if i.Absent {
		return []string{"(nothing is there)"}
	}
	return strings.Split(strings.TrimSuffix(string(i.Bytes), "\n"), "\n")
}
