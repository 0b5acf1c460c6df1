package hypervisor

import "iter"

// undoledger.go: which change of a resource stands in the way of an older one's undo.

// A ledger says which change of a resource is the newest that stands. Its stacks are in the order of the log; what stands no
// more is taken off the top once, so that asking newest first costs the same for each.
type ledger struct {
	of      map[string][]*deed // by resource
	beneath map[string][]*deed // by each place above a resource
}

func newLedger() ledger { return ledger{map[string][]*deed{}, map[string][]*deed{}} }

func (l ledger) add(d *deed) {
	if d.Resource == "" {
		return
	}
	l.of[d.Resource] = append(l.of[d.Resource], d)
	for above := range parents(d.Resource) {
		l.beneath[above] = append(l.beneath[above], d)
	}
}

// newer returns the newest later change that stands of what a deed touched, or of what is above or beneath it; empty: none.
func (l ledger) newer(d *deed, stands func(*deed) bool) string {
	var newest *deed
	ask := func(in map[string][]*deed, at string) {
		stack := in[at]
		for len(stack) > 0 && !stands(stack[len(stack)-1]) {
			stack = stack[:len(stack)-1]
		}
		in[at] = stack
		if len(stack) == 0 {
			return
		}
		if top := stack[len(stack)-1]; top != d && top.pos > d.pos && (newest == nil || top.pos > newest.pos) {
			newest = top
		}
	}
	if d.Resource == "" {
		return ""
	}
	ask(l.of, d.Resource)
	ask(l.beneath, d.Resource)
	for above := range parents(d.Resource) {
		ask(l.of, above)
	}
	if newest == nil {
		return ""
	}
	return newest.Name()
}

// parents yields the places above a resource, "files:/srv" and "files:/" of "files:/srv/a".
func parents(resource string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := len(resource) - 1; i > 0; i-- {
			if resource[i] != '/' {
				continue
			}
			above := resource[:i]
			if above[i-1] == ':' {
				above = resource[:i+1]
			}
			if above != resource && !yield(above) {
				return
			}
		}
	}
}
