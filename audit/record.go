package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Version is the format of a record. A reader stops at any other.
const Version = 1

// MaxRecordBytes bounds a record's bytes.
const MaxRecordBytes = 1 << 20

// The streams (docs/design.md "Entities").
const (
	SystemStream  = "system"
	SessionPrefix = "session/"
	AgentPrefix   = "agent/"
)

// A Caller is who a record says gave the command.
type Caller struct {
	DID  string `json:"did"`
	Role string `json:"role"`
	Via  string `json:"via"`
}

// A Record is the envelope around a command's events. The kernels own what is in Events.
type Record struct {
	Stream string
	Seq    uint64 // from 1
	Time   time.Time
	Caller Caller
	Trace  string // a W3C traceparent
	Prev   Hash   // leaf hash of the record before; zero at Seq 1
	Events []byte // a JSON array of objects, each with a "type"
}

// timeLayout is RFC 3339 in UTC with microseconds: fixed width, so that one time has one text.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// Append appends the record's bytes, as they are stored and hashed.
func (r *Record) Append(dst []byte) []byte {
	dst = append(dst, `{"v":1,"stream":`...)
	dst = AppendString(dst, r.Stream)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, r.Seq, 10)
	dst = append(dst, `,"time":`...)
	dst = AppendTime(dst, r.Time)
	dst = append(dst, `,"caller":{"did":`...)
	dst = AppendString(dst, r.Caller.DID)
	dst = append(dst, `,"role":`...)
	dst = AppendString(dst, r.Caller.Role)
	dst = append(dst, `,"via":`...)
	dst = AppendString(dst, r.Caller.Via)
	dst = append(dst, `},"trace":`...)
	dst = AppendString(dst, r.Trace)
	dst = append(dst, `,"prev":`...)
	dst = AppendHash(dst, r.Prev)
	dst = append(dst, `,"events":`...)
	dst = append(dst, r.Events...)
	return append(dst, '}')
}

// ErrRecord is returned, wrapped with what is wrong, for bytes that are not a record of this version.
var ErrRecord = errors.New("not a record")

// ParseRecord reads the envelope of a record. Its layout is fixed, so anything not exactly as Append writes it is ErrRecord:
// two different texts never mean the same record. Events is checked to be there, not to be understood.
func ParseRecord(body []byte) (Record, error) {
	p := scanner{rest: body}
	var r Record
	p.literal(`{"v":`)
	if v := p.number(); p.err == nil && v != Version {
		return Record{}, fmt.Errorf("%w: version %d, and this program reads version %d; use a newer program", ErrRecord, v, Version)
	}
	p.literal(`,"stream":`)
	r.Stream = p.string()
	p.literal(`,"seq":`)
	r.Seq = p.number()
	p.literal(`,"time":`)
	r.Time = p.time()
	p.literal(`,"caller":{"did":`)
	r.Caller.DID = p.string()
	p.literal(`,"role":`)
	r.Caller.Role = p.string()
	p.literal(`,"via":`)
	r.Caller.Via = p.string()
	p.literal(`},"trace":`)
	r.Trace = p.string()
	p.literal(`,"prev":`)
	r.Prev = p.hash()
	p.literal(`,"events":`)
	if p.err == nil && (len(p.rest) < len(`[{}]}`) || p.rest[0] != '[' || !bytes.HasSuffix(p.rest, []byte("}]}"))) {
		p.fail("events")
	}
	if p.err != nil {
		return Record{}, p.err
	}
	r.Events = p.rest[:len(p.rest)-1]
	return r, nil
}

// AppendString appends s as a JSON string. Invalid UTF-8 becomes U+FFFD, as encoding/json writes it.
func AppendString(dst []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	return appendEscaped(dst, s)
}

func appendEscaped(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range s { // an invalid byte ranges as U+FFFD
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', byte(c))
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		case c == '\u2028' || c == '\u2029': // legal JSON, but a line end to some readers of lines
			dst = append(dst, '\\', 'u', '2', '0', '2', digits[c&15])
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return append(dst, '"')
}

// AppendHash appends h as a JSON string of hex.
func AppendHash(dst []byte, h Hash) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for _, b := range h {
		dst = append(dst, digits[b>>4], digits[b&15])
	}
	return append(dst, '"')
}

// AppendTime appends t as a JSON string: RFC 3339, UTC, microseconds.
func AppendTime(dst []byte, t time.Time) []byte {
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, timeLayout)
	return append(dst, '"')
}

// A scanner reads the fixed layout of an envelope from the left; the first error stays.
type scanner struct {
	rest []byte
	err  error
}

func (p *scanner) fail(what string) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: at %s", ErrRecord, what)
	}
	p.rest = nil
}

func (p *scanner) literal(text string) {
	if len(p.rest) < len(text) || string(p.rest[:len(text)]) != text {
		p.fail(text)
		return
	}
	p.rest = p.rest[len(text):]
}

func (p *scanner) number() (n uint64) {
	i := 0
	for i < len(p.rest) && i < 19 && p.rest[i] >= '0' && p.rest[i] <= '9' {
		n = n*10 + uint64(p.rest[i]-'0')
		i++
	}
	if i == 0 || (i > 1 && p.rest[0] == '0') {
		p.fail("a number")
		return 0
	}
	p.rest = p.rest[i:]
	return n
}

// quoted returns the bytes of a JSON string with its quotes.
func (p *scanner) quoted() []byte {
	if len(p.rest) == 0 || p.rest[0] != '"' {
		p.fail("a string")
		return nil
	}
	for i := 1; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '\\':
			i++
		case '"':
			text := p.rest[:i+1]
			p.rest = p.rest[i+1:]
			return text
		}
	}
	p.fail("a string's end")
	return nil
}

func (p *scanner) string() string {
	text := p.quoted()
	if text == nil {
		return ""
	}
	inner := string(text[1 : len(text)-1])
	if again := AppendString(nil, inner); bytes.Equal(again, text) {
		return inner
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil || !bytes.Equal(AppendString(nil, s), text) {
		p.fail("a string's escapes")
		return ""
	}
	return s
}

func (p *scanner) time() time.Time {
	text := p.quoted()
	if len(text) != len(timeLayout)+2 {
		p.fail("the time")
		return time.Time{}
	}
	t, err := time.Parse(timeLayout, string(text[1:len(text)-1]))
	if err != nil {
		p.fail("the time")
	}
	return t
}

func (p *scanner) hash() Hash {
	text := p.quoted()
	if len(text) < 2 {
		p.fail("a hash")
		return Hash{}
	}
	h, err := ParseHash(text[1 : len(text)-1])
	if err != nil {
		p.fail("a hash")
	}
	return h
}
