package config

import "regexp"

// environ.go: what is taken from the environment, so that a secret need not stand in a file.

// reference is how MCP clients write a variable in their files: ${NAME}, ${env:NAME}, ${NAME:-otherwise}; and what a client asks a
// person for. Whatever else has a dollar sign is text.
var reference = regexp.MustCompile(`\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{input:[^}]*\}`)

// expanded returns a text with its references replaced, and false where one cannot be. A fault names the variable, never a value.
func (r *reader) expanded(it item, text string) (string, bool) {
	if r.environ == nil {
		return text, true
	}
	ok := true
	out := reference.ReplaceAllStringFunc(text, func(whole string) string {
		parts := reference.FindStringSubmatchIndex(whole)
		if parts[2] < 0 {
			r.Fault(it, "%s is asked of a person by a client; name a variable of the environment, as ${NAME}", whole)
			ok = false
			return ""
		}
		name := whole[parts[2]:parts[3]]
		value, set := r.environ(name)
		switch {
		case parts[4] >= 0 && value == "":
			return whole[parts[4]:parts[5]]
		case !set:
			r.Fault(it, "the environment has no %s; set it before the hypervisor starts, or say ${%s:-otherwise}", name, name)
			ok = false
		}
		return value
	})
	return out, ok
}

// private reads a text that may refer to the environment and is not empty.
func (r *reader) private(it item) (string, bool) {
	text, ok := r.Text(it)
	if !ok {
		return "", false
	}
	if text, ok = r.expanded(it, text); ok && text == "" {
		r.Fault(it, "is empty once the environment is in it")
		return "", false
	}
	return text, ok
}
