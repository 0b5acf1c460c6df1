package audit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Head says of a whole log that it has at least so many records, and what the root over the first so many is: what
// somebody wrote down earlier, against which a later log is verified. In text "N:hex".
type Head struct {
	Records uint64
	Root    Hash // RFC 6962 root over the leaf hashes of all streams in commit order
}

// ErrHead is returned for a text that is not a head.
var ErrHead = errors.New("not a head (records:root, such as 12:9f86…)")

// ParseHead reads "N:hex", or returns ErrHead. One head has one text.
func ParseHead(text string) (Head, error) {
	number, root, ok := strings.Cut(text, ":")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || strconv.FormatUint(n, 10) != number {
		return Head{}, fmt.Errorf("%w: %.100q", ErrHead, text)
	}
	h, err := ParseHash(root)
	if err != nil {
		return Head{}, fmt.Errorf("%w: %.100q: root: %w", ErrHead, text, err)
	}
	if empty := (&Tree{}).Root(); n == 0 && h != empty {
		return Head{}, fmt.Errorf("%w: the root over no records is %s", ErrHead, empty)
	}
	return Head{Records: n, Root: h}, nil
}

// String returns the head as "N:hex".
func (h Head) String() string { return strconv.FormatUint(h.Records, 10) + ":" + h.Root.String() }

// MarshalText returns the head as "N:hex".
func (h Head) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads "N:hex", or returns ErrHead.
func (h *Head) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHead(string(text))
	return err
}
