package gateway

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/system"
)

// A Tool is a tool as its server defines it. It is a value.
type Tool struct {
	Name        string
	Definition  json.RawMessage    // as the server sent it
	Annotations action.Annotations // the server's own hints
	Digest      [sha256.Size]byte  // the pin: of the definition with names sorted, whitespace and spelling of strings set aside, and of Server
	Server      string             // what the server calls itself; empty: it does not say

	schema  *jsonschema.Resolved
	fault   error // why schema is nil
	headers []paramHeader
}

// ErrTool is returned, wrapped with what is wrong, for a definition that is not one.
var ErrTool = errors.New("bad tool definition")

var toolName = regexp.MustCompile(`^[A-Za-z0-9_./-]{1,128}$`)

// ownPrefix is of the tools that are the hypervisor's; no upstream may have one of that name.
const ownPrefix = "hypervisor__"

// ParseTool reads a definition strictly. A schema that cannot be resolved is not an error: such a tool is listed, and Check
// says why it cannot be called.
func ParseTool(definition json.RawMessage) (Tool, error) {
	var d struct {
		Name        string         `json:"name"`
		InputSchema jsontext.Value `json:"inputSchema"`
		Annotations struct {
			ReadOnly    bool  `json:"readOnlyHint"`
			Destructive *bool `json:"destructiveHint"`
			Idempotent  bool  `json:"idempotentHint"`
			OpenWorld   *bool `json:"openWorldHint"`
		} `json:"annotations"`
	}
	if err := action.WellFormed(definition); err != nil {
		return Tool{}, fmt.Errorf("%w: %w", ErrTool, err)
	}
	if err := jsonv2.Unmarshal(definition, &d); err != nil {
		return Tool{}, fmt.Errorf("%w: %w", ErrTool, err)
	}
	if !toolName.MatchString(d.Name) || strings.HasPrefix(d.Name, ownPrefix) {
		return Tool{}, fmt.Errorf("%w: name %q: 1 to 128 of letters, digits and _ - . /, and not beginning with %s", ErrTool, clip(d.Name), ownPrefix)
	}
	sorted, err := jsontext.AppendFormat(nil, definition, jsontext.ReorderRawObjects(true))
	if err != nil {
		return Tool{}, fmt.Errorf("%w: %w", ErrTool, err)
	}
	t := Tool{Name: d.Name, Definition: definition, Digest: sha256.Sum256(sorted)}
	t.Annotations = action.Annotations(d.Annotations)
	t.schema, t.fault = resolveSchema(json.RawMessage(d.InputSchema))
	t.headers = paramHeaders(json.RawMessage(d.InputSchema))
	return t, nil
}

// of returns the tool as one of a server that calls itself so: of another server it is another, however like.
func (t Tool) of(server string) Tool {
	if server == "" {
		return t
	}
	t.Server, t.Digest = server, sha256.Sum256(append(t.Digest[:], server...))
	return t
}

// pinnedServer is the member that stands for Server in the text beside a pin.
const pinnedServer = "hypervisor/server"

// pinned is what the pin is of, as an operator is shown it.
func (t Tool) pinned() (system.Seen, error) {
	seen := system.Seen{Digest: t.Digest, Text: t.Definition}
	if t.Server == "" {
		return seen, nil
	}
	parts, err := members(t.Definition)
	if err != nil {
		return seen, err
	}
	name, err := encode(t.Server)
	if err != nil {
		return seen, err
	}
	parts = slices.DeleteFunc(slices.Clone(parts), func(m member) bool { return m.name == pinnedServer })
	seen.Text, err = (&rawResult{parts: append(parts, member{pinnedServer, name})}).MarshalJSON()
	return seen, err
}

// Check returns what is wrong with the arguments, as action.DecodeArgs decodes them, by the tool's input schema, in words
// their sender can act on.
func (t Tool) Check(args map[string]any) error {
	if t.schema == nil {
		return fmt.Errorf("%s cannot be called: its input schema is not understood (%w); its server has to mend it", t.Name, t.fault)
	}
	if err := validate(t.schema, args); err != nil {
		return fmt.Errorf("the arguments of %s do not fit its input schema: %s", t.Name, clipFault(err))
	}
	return nil
}

// clipFault bounds a validator's report, which repeats values and schemas.
func clipFault(err error) string {
	const most = 500
	text := err.Error()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
