package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// modernProtocol is the first revision whose requests carry their revision, and whose results say what kind they are.
const modernProtocol = "2026-07-28"

// isModern reports whether a request is of modernProtocol or later.
func isModern(p mcp.Params) bool {
	v, _ := p.GetMeta()[mcp.MetaKeyProtocolVersion].(string)
	return v >= modernProtocol
}

// A rawResult is a result whose members go out as they came, those included that the SDK's types do not know. The SDK adds to
// its Meta what a modern answer must carry.
type rawResult struct {
	mcp.ResultBase
	parts  []member
	modern bool
}

// MarshalJSON returns the members in their order; in a modern answer, with the kind of the result and the SDK's _meta.
func (r *rawResult) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	put := func(m member) error {
		name, err := encode(m.name)
		if err != nil {
			return err
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(m.value)
		return nil
	}
	b.WriteByte('{')
	parts, err := r.withMeta()
	if err != nil {
		return nil, err
	}
	for _, m := range parts {
		if err := put(m); err != nil {
			return nil, err
		}
	}
	if r.modern && !slices.ContainsFunc(parts, func(m member) bool { return m.name == "resultType" }) {
		if err := put(member{"resultType", json.RawMessage(`"complete"`)}); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (r *rawResult) has(name string) bool {
	return slices.ContainsFunc(r.parts, func(m member) bool { return m.name == name })
}

// withMeta returns the members with the SDK's _meta entries put into theirs, over entries of the same name: who serves the
// agent is us, whoever served us.
func (r *rawResult) withMeta() ([]member, error) {
	if len(r.Meta) == 0 {
		return r.parts, nil
	}
	parts := slices.Clone(r.parts)
	at := slices.IndexFunc(parts, func(m member) bool { return m.name == "_meta" })
	if at < 0 {
		at, parts = len(parts), append(parts, member{"_meta", json.RawMessage(`{}`)})
	}
	theirs, err := members(parts[at].value)
	if err != nil {
		theirs = nil // a _meta that is no object means nothing
	}
	meta := rawResult{parts: slices.DeleteFunc(theirs, func(m member) bool { _, ours := r.Meta[m.name]; return ours })}
	for _, k := range slices.Sorted(maps.Keys(r.Meta)) {
		v, err := encode(r.Meta[k])
		if err != nil {
			return nil, fmt.Errorf("encoding _meta: %w", err)
		}
		meta.parts = append(meta.parts, member{k, v})
	}
	if parts[at].value, err = meta.MarshalJSON(); err != nil {
		return nil, err
	}
	return parts, nil
}

// coded gives an error a JSON-RPC code that has none, and takes what hides out of its text: the SDK would send 0, which is no code.
func coded(r mcp.Result, err error) (mcp.Result, error) {
	var e *jsonrpc.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return r, err
	case errors.As(err, &e):
		return nil, e
	}
	return nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: neutralText(err.Error())}
}

// encode is json.Marshal without escapes meant for HTML: text goes to models and programs.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
