package boot

const (
	finitModule = 313
	sysStatx    = 332
)
