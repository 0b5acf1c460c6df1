package cel

import (
	"slices"
	"strings"

	celgo "cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/agenthypervisor/hypervisor/action"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"
)

// variables binds a request to the names rules use. It is made once per call and shared by all rules; nothing in it is
// converted until a rule asks.
type variables struct {
	req policy.Request
	id  any // what almost every rule asks for, made a CEL value once
}

func activate(req policy.Request) *variables {
	return &variables{req: req, id: types.String(req.Action.ID)}
}

// Parent returns nil: there are no other names.
func (v *variables) Parent() celgo.Activation { return nil }

// ResolveName returns the value of a variable.
func (v *variables) ResolveName(name string) (any, bool) {
	if field, ok := strings.CutPrefix(name, "action."); ok {
		return v.actionField(field)
	}
	switch name {
	case "args":
		return v.req.Args, true // a nil map is an empty one
	case "agent":
		return types.String(v.req.Agent), true
	case "resource":
		return types.String(v.req.Resource), true
	case "session":
		return types.String(v.req.Session), true
	case "session.name":
		return types.String(v.req.Name), true
	case "ring":
		return types.Int(v.req.Ring), true
	case "sigma":
		return types.Double(float64(v.req.Sigma) / float64(ring.One)), true // the double nearest to the decimal: see the package comment
	case "now":
		return types.Timestamp{Time: v.req.Now}, true
	}
	return nil, false
}

func (v *variables) actionField(field string) (any, bool) {
	d := &v.req.Action
	switch field {
	case "id":
		return v.id, true
	case "name":
		return types.String(d.Name), true
	case "read_only":
		return types.Bool(d.ReadOnly), true
	case "admin":
		return types.Bool(d.Admin), true
	case "reversibility":
		return types.String(d.Reversibility.String()), true
	case "idempotent":
		return types.Bool(d.Idempotent), true
	case "network":
		return types.Bool(d.Network), true
	case "files":
		return types.Bool(d.Files), true
	case "subprocess":
		return types.Bool(d.Subprocess), true
	case "resource":
		return types.String(d.Resource), true
	}
	return nil, false
}

// adapter makes CEL values of what a JSON decoder gives. Objects are walked in the order of their keys, so that a rule gives
// the same answer, at the same cost, every time.
type adapter struct{ types.Adapter }

// NativeToValue converts one value; what is inside an object or a list is converted when a rule gets there.
func (a adapter) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case map[string]any:
		return object{types.NewStringInterfaceMap(a, v), v}
	case []any:
		return types.NewDynamicList(a, v)
	}
	return a.Adapter.NativeToValue(value)
}

// object is a JSON object whose keys come in order. It hides that the map below it can fold, which goes in Go's map order.
type object struct {
	traits.Mapper
	fields map[string]any
}

// Iterator returns the keys in order.
func (o object) Iterator() traits.Iterator {
	keys := make([]string, 0, len(o.fields))
	for k := range o.fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return types.NewStringList(types.DefaultTypeAdapter, keys).Iterator()
}

// under reports whether resource is place or lies beneath it, both normalised, by whole segments: /prod/x is under /prod,
// /production and /prod/../x are not. It returns an error, and so the rule denies, if either is no resource.
func under(resource, place string) (bool, error) {
	resource, err := action.NormaliseResource(resource)
	if err != nil {
		return false, err
	}
	place, err = action.NormaliseResource(place)
	if err != nil {
		return false, err
	}
	return action.Under(resource, place), nil
}
