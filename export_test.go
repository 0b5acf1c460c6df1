package hypervisor

// SwapRim exchanges two parts of the rim, so that a simulation can take its steps in another order.
func (hv *Hypervisor) SwapRim(i, j int) { hv.rim[i], hv.rim[j] = hv.rim[j], hv.rim[i] }

// RimSize returns how many parts the rim has.
func (hv *Hypervisor) RimSize() int { return len(hv.rim) }
