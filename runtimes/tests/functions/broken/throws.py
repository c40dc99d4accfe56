raise IndexError('at load')
