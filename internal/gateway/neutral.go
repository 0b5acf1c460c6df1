package gateway

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// neutral.go: text that people do not see, or see as other than a model reads it.

// neutralisedKey marks, in _meta, a definition or result in which something was replaced.
const neutralisedKey = "hypervisor/neutralised"

// neutralise replaces in all strings of a JSON value, names included, what is hidden or drives a terminal (see hidden), each run
// of it by one U+FFFD, and reports whether there was any. A value without any is returned as it stands.
func neutralise(v json.RawMessage) (json.RawMessage, bool) {
	if !mayHide(v) {
		return v, false
	}
	var out bytes.Buffer
	found := false
	d := jsontext.NewDecoder(bytes.NewReader(v), jsontext.AllowDuplicateNames(true))
	// Two names may become one: what is shown may then say a thing twice, and a strict reader stops at it.
	e := jsontext.NewEncoder(&out, jsontext.AllowDuplicateNames(true), jsontext.EscapeForHTML(false), jsontext.EscapeForJS(false), jsontext.PreserveRawStrings(true))
	for d.StackDepth() > 0 || out.Len() == 0 {
		t, err := d.ReadToken()
		if err != nil {
			return v, false // it was well formed when it came in; what is no JSON is nothing to read either
		}
		if t.Kind() == '"' {
			if text := t.String(); strings.ContainsFunc(text, suspicious) {
				if clean := neutralText(text); clean != text {
					t, found = jsontext.String(clean), true
				}
			}
		}
		if e.WriteToken(t) != nil {
			return v, false
		}
	}
	if !found {
		return v, false
	}
	return bytes.TrimRight(out.Bytes(), "\n"), true
}

// mayHide reports, cheaply, whether a JSON text could have anything that is replaced: an escape, DEL, or a lead byte of such.
func mayHide(v []byte) bool {
	if bytes.Contains(v, []byte(`\u`)) || bytes.Contains(v, []byte(`\b`)) || bytes.Contains(v, []byte(`\f`)) {
		return true
	}
	return slices.ContainsFunc(v, func(b byte) bool { return b >= 0x7f })
}

// suspicious is hidden, but for the place a rune stands at.
func suspicious(r rune) bool {
	switch {
	case r == '\t' || r == '\n' || r == '\r':
		return false
	case r < ' ', r >= 0x7f && r <= 0x9f: // C0, DEL, C1: ANSI sequences begin with one
		return true
	case r < 0xad:
		return false
	}
	return unicode.Is(unicode.Cf, r) && !unicode.Is(unicode.Prepended_Concatenation_Mark, r) || // those are seen
		unicode.In(r, unicode.Variation_Selector, unicode.Noncharacter_Code_Point, invisible)
}

// invisible are runes that show nothing and are not of category Cf.
var invisible = &unicode.RangeTable{
	R16: []unicode.Range16{{0x034f, 0x034f, 1}, {0x115f, 0x1160, 1}, {0x17b4, 0x17b5, 1}, {0x2800, 0x2800, 1}, {0x3164, 0x3164, 1}, {0xffa0, 0xffa0, 1}},
	R32: []unicode.Range32{{0xe0000, 0xe0fff, 1}}, // tags, and what may become such
}

// neutralText replaces the hidden runes of a text, a run by one U+FFFD. What writing needs stays: a joiner between two visible
// runes that are not ASCII, one variation selector after such a rune, and a byte order mark at the very beginning.
func neutralText(text string) string {
	var b strings.Builder
	var last rune // as it was: 0 at the beginning
	replaced := false
	for i, r := range text {
		next, _ := utf8.DecodeRuneInString(text[i+utf8.RuneLen(r):])
		if suspicious(r) && !harmless(last, r, next, i) {
			if !replaced {
				b.WriteRune(utf8.RuneError)
			}
			replaced = true
		} else {
			b.WriteRune(r)
			replaced = false
		}
		last = r
	}
	return b.String()
}

func harmless(last, r, next rune, at int) bool {
	visible := func(r rune) bool { return r > unicode.MaxASCII && r != utf8.RuneError && !suspicious(r) }
	emojiStyle := r == 0xfe0e || r == 0xfe0f
	switch {
	case r == 0xfeff:
		return at == 0
	case r == 0x200c || r == 0x200d: // joiners: Persian, Indic scripts, emoji
		return (visible(last) || last == 0xfe0f) && visible(next)
	case emojiStyle: // also after 0–9, # and *: keycaps
		return visible(last) || last == '#' || last == '*' || last >= '0' && last <= '9'
	case r == 0xad: // soft hyphen: in words
		return unicode.IsLetter(last) && unicode.IsLetter(next)
	}
	return false
}

// neutralised is neutralise for an object, which is marked in its _meta if anything was replaced.
func neutralised(object json.RawMessage) (json.RawMessage, bool) {
	clean, found := neutralise(object)
	if !found {
		return object, false
	}
	parts, err := members(clean)
	if err != nil {
		return object, false
	}
	marked := rawResult{parts: parts}
	marked.Meta = map[string]any{neutralisedKey: true}
	if out, err := marked.MarshalJSON(); err == nil {
		return out, true
	}
	return clean, true
}
