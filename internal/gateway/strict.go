package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/agenthypervisor/hypervisor/action"
)

// Bounds of the wire, on either side; a message is at most action.MaxDepth deep, its envelope included.
const (
	maxLineBytes = 16 << 20 // a message, without its newline
	maxIDBytes   = 1 << 10  // a request's id as it stands on the line
	maxExactInt  = 1<<53 - 1
)

// A fault is why a line is refused: what JSON-RPC answers to it.
type fault struct {
	code int64
	text string
	id   json.RawMessage // of the request, where it can be had; nil: null
}

// Error returns the text.
func (f *fault) Error() string { return f.text }

// line answers the peer that sent the faulty line. The SDK's encoder leaves a null id out, which JSON-RPC 2.0 §5 does not
// allow, so this is written by hand.
func (f *fault) line() []byte {
	id := f.id
	if id == nil {
		id = json.RawMessage("null")
	}
	text, err := jsontext.AppendQuote(nil, strings.ToValidUTF8(f.text, "\uFFFD"))
	if err != nil {
		panic("gateway: quoting valid UTF-8: " + err.Error())
	}
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%s}}`, id, f.code, text)
}

func invalid(format string, args ...any) *fault {
	return &fault{code: jsonrpc.CodeInvalidRequest, text: "invalid request: " + fmt.Sprintf(format, args...)}
}

// An envelope is a JSON-RPC message whose line passed the strict check. Its parts share memory with the line.
type envelope struct {
	id     jsonrpc.ID      // invalid: a notification, or an answer to a request whose id could not be read
	method string          // empty: a response
	params json.RawMessage // an object or an array; nil: none, or null
	result json.RawMessage
	err    *jsonrpc.Error // nil: none
	call   bool           // a method, with an id
}

// parse checks one line and takes it apart. What it lets through means the same to every decoder: valid UTF-8, no name twice
// in any object, no name that only a case-folding decoder would take for another, nothing after the value.
func parse(line []byte) (envelope, *fault) {
	e, f := parseEnvelope(line)
	if f == nil && e.method == "tools/call" {
		f = checkCallParams(e.params)
	}
	if f != nil {
		f.id = salvageID(line)
	}
	return e, f
}

// parseClients is parse for a client's line, which is also of the types that MCP wants.
func parseClients(line []byte) (envelope, *fault) {
	e, f := parse(line)
	if f == nil {
		if f = checkTypes(e); f != nil {
			f.id = salvageID(line)
		}
	}
	return e, f
}

func parseEnvelope(line []byte) (envelope, *fault) {
	if err := action.WellFormed(line); err != nil {
		return envelope{}, &fault{code: jsonrpc.CodeParseError, text: "parse error: " + err.Error()}
	}
	parts, err := members(line)
	if err != nil {
		return envelope{}, invalid("a message is one JSON object; batches are not taken")
	}
	var e envelope
	for _, m := range parts {
		if f := e.take(m); f != nil {
			return envelope{}, f
		}
	}
	return e, e.checkShape(parts)
}

// A member is a name of an object and its value as it stands.
type member struct {
	name  string
	value json.RawMessage
}

var errNoObject = errors.New("not a JSON object")

// members takes an object apart, in order; the values share memory with text. It is an error if text is not one. The text is a
// part of what has passed action.WellFormed, so what is within a value is not looked at again.
func members(text []byte) ([]member, error) {
	at := skipSpace(text, 0)
	if !isAt(text, at, '{') {
		return nil, errNoObject
	}
	at = skipSpace(text, at+1)
	if isAt(text, at, '}') {
		return nil, nil
	}
	out := make([]member, 0, 4) // as many as most have
	for {
		end := valueEnd(text, at)
		name, err := unquote(text[at:end])
		if err != nil {
			return nil, errNoObject
		}
		at = skipSpace(text, end)
		if !isAt(text, at, ':') {
			return nil, errNoObject
		}
		at = skipSpace(text, at+1)
		end = valueEnd(text, at)
		if end == at {
			return nil, errNoObject
		}
		out = append(out, member{name, json.RawMessage(text[at:end:end])})
		at = skipSpace(text, end)
		if isAt(text, at, '}') {
			return out, nil
		}
		if !isAt(text, at, ',') {
			return nil, errNoObject
		}
		at = skipSpace(text, at+1)
	}
}

func isAt(text []byte, at int, c byte) bool { return at < len(text) && text[at] == c }

func skipSpace(text []byte, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r') {
		at++
	}
	return at
}

// valueEnd returns where the value that begins at a place of a well-formed text ends.
func valueEnd(text []byte, at int) int {
	depth, quoted := 0, false
	for ; at < len(text); at++ {
		switch c := text[at]; {
		case quoted && c == '\\':
			at++
		case c == '"':
			if quoted = !quoted; !quoted && depth == 0 {
				return at + 1
			}
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth == 0 {
				return at // of a number or a word before it
			}
			if depth--; depth == 0 {
				return at + 1
			}
		case depth == 0 && (c == ',' || c == ':' || c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			return at
		}
	}
	return len(text)
}

// take reads one member of the envelope.
func (e *envelope) take(m member) *fault {
	switch m.name {
	case "jsonrpc":
		if v, err := unquote(m.value); err != nil || v != "2.0" {
			return invalid(`"jsonrpc" is not "2.0"`)
		}
	case "id":
		var ok bool
		if e.id, ok = parseID(m.value); !ok && string(m.value) != "null" {
			return invalid("an id is a string or a whole number of at most %d", maxExactInt)
		}
	case "method":
		v, err := unquote(m.value)
		if err != nil || v == "" {
			return invalid(`"method" is not a string with something in it`)
		}
		e.method = v
	case "params":
		if k := m.value[0]; k != '{' && k != '[' && k != 'n' {
			return invalid(`"params" is neither an object nor an array`)
		} else if k != 'n' {
			e.params = m.value
		}
	case "result":
		e.result = m.value
	case "error":
		var f *fault
		e.err, f = parseError(m.value)
		return f
	default:
		return unknownMember(m.name, "a message", "jsonrpc", "id", "method", "params", "result", "error")
	}
	return nil
}

// checkShape reports what makes the members together no message.
func (e *envelope) checkShape(parts []member) *fault {
	has := func(name string) bool {
		for _, m := range parts {
			if m.name == name {
				return true
			}
		}
		return false
	}
	switch {
	case !has("jsonrpc"):
		return invalid(`"jsonrpc" is missing`)
	case has("method") && (has("result") || has("error")):
		return invalid("a message is a request or a response, not both")
	case has("method") && has("id") && !e.id.IsValid():
		return invalid("the id of a request is null")
	case !has("method") && has("result") == has("error"):
		return invalid(`a message has "method", or one of "result" and "error"`)
	case !has("method") && has("params"):
		return invalid("a response has no params")
	case !has("method") && (!has("id") || !e.id.IsValid() && !has("error")):
		return invalid("a response has no id")
	}
	e.call = has("method") && has("id")
	return nil
}

// checkCallParams refuses, in the params of tools/call, a name that only a case-folding decoder would take for one of its own:
// two readers of such a line would see two calls. Names that resemble none are MCP's to define; they are not forwarded.
func checkCallParams(params json.RawMessage) *fault {
	bad := func(f *fault) *fault {
		f.code, f.text = jsonrpc.CodeInvalidParams, "invalid params: "+strings.TrimPrefix(f.text, "invalid request: ")
		return f
	}
	parts, err := members(params)
	if err != nil {
		return bad(invalid("tools/call takes an object"))
	}
	known := []string{"name", "arguments", "_meta", "task", "inputResponses", "requestState"}
	for _, m := range parts {
		for _, k := range known {
			if m.name != k && strings.EqualFold(m.name, k) {
				return bad(unknownMember(m.name, "tools/call", known...))
			}
		}
		if m.name == "arguments" && m.value[0] != '{' {
			return bad(invalid(`"arguments" is not an object`))
		}
		if m.name == "_meta" {
			if f := checkProgressToken(m.value); f != nil {
				return bad(f)
			}
		}
	}
	return nil
}

// checkProgressToken refuses a token that the SDK, which decodes it as a float, would hand back as another.
func checkProgressToken(meta json.RawMessage) *fault {
	parts, err := members(meta)
	if err != nil {
		return invalid(`"_meta" is not an object`)
	}
	for _, m := range parts {
		if m.name != "progressToken" {
			continue
		}
		if _, ok := parseID(m.value); !ok {
			return invalid("a progressToken is a string or a whole number of at most %d", maxExactInt)
		}
	}
	return nil
}

func unknownMember(name, of string, known ...string) *fault {
	for _, k := range known {
		if strings.EqualFold(name, k) {
			return invalid("%s has no member %q (names are read exactly; did you mean %q?)", of, clip(name), k)
		}
	}
	return invalid("%s has no member %q", of, clip(name))
}

// clip bounds what of a peer's text goes into our own.
func clip(text string) string { return clipTo(text, 120) }

func clipTo(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

func unquote(v json.RawMessage) (string, error) {
	if n := len(v); n > 1 && v[0] == '"' && v[n-1] == '"' && bytes.IndexByte(v, '\\') < 0 {
		return string(v[1 : n-1]), nil // what an escape would be is nowhere in it
	}
	b, err := jsontext.AppendUnquote(nil, v)
	return string(b), err
}

// parseID reads a string or a whole number that survives a float, which is how the SDK keeps it.
func parseID(v json.RawMessage) (id jsonrpc.ID, ok bool) {
	if len(v) > maxIDBytes {
		return id, false
	}
	if v[0] == '"' {
		s, err := unquote(v)
		if err != nil {
			return id, false
		}
		id, err = jsonrpc.MakeID(s)
		return id, err == nil
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || n > maxExactInt || n < -maxExactInt {
		return id, false
	}
	id, err = jsonrpc.MakeID(float64(n))
	return id, err == nil
}

// parseError reads a response's error member.
func parseError(v json.RawMessage) (*jsonrpc.Error, *fault) {
	parts, err := members(v)
	if err != nil {
		return nil, invalid(`"error" is not an object`)
	}
	e := &jsonrpc.Error{}
	for _, m := range parts {
		switch m.name {
		case "code":
			if e.Code, err = strconv.ParseInt(string(m.value), 10, 64); err != nil {
				return nil, invalid("an error's code is a whole number")
			}
		case "message":
			if e.Message, err = unquote(m.value); err != nil {
				return nil, invalid("an error's message is a string")
			}
		case "data":
			e.Data = m.value
		}
	}
	return e, nil
}

// salvageID returns the id of a faulty request as it stands on the line, or nil where there is none to be had: no object, no
// id or two of them before the point where the line stops being JSON, or not an id.
func salvageID(line []byte) json.RawMessage {
	d := jsontext.NewDecoder(bytes.NewReader(line), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if d.PeekKind() != '{' {
		return nil
	}
	if _, err := d.ReadToken(); err != nil {
		return nil
	}
	var found json.RawMessage
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			break
		}
		if name.String() != "id" {
			if d.SkipValue() != nil {
				break
			}
			continue
		}
		v, err := d.ReadValue()
		if err != nil || found != nil {
			return nil
		}
		if _, ok := parseID(json.RawMessage(v)); !ok {
			return nil
		}
		found = json.RawMessage(v.Clone())
	}
	return found
}
