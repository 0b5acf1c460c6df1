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
	e, err := skim(body)
	if err != nil {
		return Record{}, err
	}
	r := Record{Seq: e.seq, Prev: e.prev, Events: e.events}
	var ok [6]bool
	r.Stream, ok[0] = unquote(e.stream)
	r.Caller.DID, ok[1] = unquote(e.did)
	r.Caller.Role, ok[2] = unquote(e.role)
	r.Caller.Via, ok[3] = unquote(e.via)
	r.Trace, ok[4] = unquote(e.trace)
	r.Time, ok[5] = parseTime(e.time)
	for i, what := range [...]string{"stream", "did", "role", "via", "trace", "time"} {
		if !ok[i] {
			return Record{}, fmt.Errorf("%w: at %s", ErrRecord, what)
		}
	}
	return r, nil
}

// AppendString appends s as a JSON string. Invalid UTF-8 becomes U+FFFD, as encoding/json writes it.
func AppendString(dst []byte, s string) []byte {
	if isPlain(s) {
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

// AppendTime appends t as a JSON string: RFC 3339, UTC, microseconds, for the years 0 to 9999.
func AppendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	if year < 0 || year > 9999 {
		return append(t.AppendFormat(append(dst, '"'), timeLayout), '"') // no reader of records takes it
	}
	text := []byte(`"` + timeLayout + `"`)
	for _, f := range [...]struct{ at, digits, value int }{
		{1, 4, year}, {6, 2, int(month)}, {9, 2, day}, {12, 2, hour}, {15, 2, minute}, {18, 2, second}, {21, 6, t.Nanosecond() / 1000},
	} {
		for i := f.at + f.digits - 1; i >= f.at; i-- {
			text[i] = byte('0' + f.value%10)
			f.value /= 10
		}
	}
	return append(dst, text...)
}

// parseTime reads what AppendTime wrote, and nothing else: time.Parse would take a comma for the point.
func parseTime(quoted []byte) (time.Time, bool) {
	if len(quoted) != len(timeLayout)+2 {
		return time.Time{}, false
	}
	t, err := time.Parse(timeLayout, string(quoted[1:len(quoted)-1]))
	if err != nil || !bytes.Equal(AppendTime(nil, t), quoted) {
		return time.Time{}, false
	}
	return t, true
}

// unquote returns the string whose JSON text, as AppendString writes it, is quoted; false if it is any other text's.
func unquote(quoted []byte) (string, bool) {
	inner := quoted[1 : len(quoted)-1]
	if isPlain(inner) {
		return string(inner), true
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil || !bytes.Equal(AppendString(nil, s), quoted) {
		return "", false
	}
	return s, true
}

// isPlain reports whether text stands in a JSON string as it is.
func isPlain[T string | []byte](text T) bool {
	for i := range len(text) {
		if !plain[text[i]] {
			return false
		}
	}
	return true
}

// plain tells of each byte whether it stands for itself in a JSON string.
var plain = func() (is [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		is[c] = c != '"' && c != '\\'
	}
	return is
}()

// An envelope is a record's parts as they stand in its bytes; strings keep their quotes.
type envelope struct {
	stream, time, did, role, via, trace []byte
	seq                                 uint64
	prev                                Hash
	events                              []byte
}

// skim finds the parts of a record without decoding them.
func skim(body []byte) (e envelope, err error) {
	p := scanner{rest: body}
	p.literal(`{"v":`)
	if v := p.number(); p.err == nil && v != Version {
		return e, fmt.Errorf("%w: version %d, and this program reads version %d; use a newer program", ErrRecord, v, Version)
	}
	p.literal(`,"stream":`)
	e.stream = p.quoted()
	p.literal(`,"seq":`)
	e.seq = p.number()
	p.literal(`,"time":`)
	e.time = p.quoted()
	p.literal(`,"caller":{"did":`)
	e.did = p.quoted()
	p.literal(`,"role":`)
	e.role = p.quoted()
	p.literal(`,"via":`)
	e.via = p.quoted()
	p.literal(`},"trace":`)
	e.trace = p.quoted()
	p.literal(`,"prev":`)
	e.prev = p.hash()
	p.literal(`,"events":`)
	e.events = p.events()
	return e, p.err
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
	const maxDigits = 19 // as many always fit
	i := 0
	for i < len(p.rest) && i < maxDigits && p.rest[i] >= '0' && p.rest[i] <= '9' {
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
	for from := 1; ; {
		i := bytes.IndexByte(p.rest[from:], '"')
		if i < 0 {
			p.fail("a string's end")
			return nil
		}
		end := from + i
		slashes := 0
		for p.rest[end-1-slashes] == '\\' {
			slashes++ // stops at the opening quote at the latest
		}
		if slashes%2 == 0 {
			text := p.rest[:end+1]
			p.rest = p.rest[end+1:]
			return text
		}
		from = end + 1
	}
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

// events returns the rest but for the record's closing brace.
func (p *scanner) events() []byte {
	if len(p.rest) < len(`[{}]}`) || p.rest[0] != '[' || !bytes.HasSuffix(p.rest, []byte("}]}")) {
		p.fail("events")
		return nil
	}
	return p.rest[:len(p.rest)-1]
}
