package config

import (
	"github.com/agenthypervisor/hypervisor/internal/document"
	"github.com/agenthypervisor/hypervisor/policy"
	"github.com/agenthypervisor/hypervisor/ring"

	"github.com/goccy/go-yaml/ast"
)

// A reader reads a file of the operator's, and knows the kinds of value that only such files have.
type reader struct {
	*document.Reader
	environ func(name string) (string, bool) // nil: references to the environment stay as they are
}

// A field reads the value of one key.
type field = document.Field

// An item is a value in a file.
type item = document.Item

func newReader(file string, faults *document.Faults) *reader {
	return &reader{Reader: document.NewReader(file, faults)}
}

// decimal reads a number from 0 to 1 into whole millionths, from its digits: no float is involved.
func (r *reader) decimal(it item) (uint32, bool) {
	switch it.Node.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		if m, err := ring.ParseMillionths(it.Node.GetToken().Value); err == nil {
			return m, true
		}
	}
	r.Fault(it, "want a number from 0 to 1 with at most six places, got %s", document.Describe(it.Node))
	return 0, false
}

func (r *reader) did(it item) (policy.DID, bool) {
	s, ok := r.Text(it)
	if !ok {
		return "", false
	}
	did, err := policy.ParseDID(s)
	if err != nil {
		r.Fault(it, "%v", err)
		return "", false
	}
	return did, true
}
